// The lanes of core/lanes.h for AVX-512: 16 words or 8 blocks a vector. Included inside a target region;
// defines nothing outside its own namespace. Blocks sit in the order 0 4 1 5 2 6 3 7, so that interleaving
// 128-bit wise restores theirs.
#include "core/dtype.h"
#include "cpu/isa.h"

namespace convinit {
namespace avx512 {
namespace vector {

typedef uint32_t U32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef float F32 __attribute__((vector_size(64)));
typedef uint64_t U64 __attribute__((vector_size(64)));
typedef int64_t I64 __attribute__((vector_size(64)));
typedef double F64 __attribute__((vector_size(64)));
using Mask32 = __mmask16;
using Mask64 = __mmask8;

constexpr int kBlocks = 8;

CONVINIT_HD F32 splat(float x) { return (F32)_mm512_set1_ps(x); }
CONVINIT_HD F64 splat(double x) { return (F64)_mm512_set1_pd(x); }
CONVINIT_HD I32 splat(int32_t x) { return (I32)_mm512_set1_epi32(x); }
CONVINIT_HD U64 splat(uint64_t x) { return (U64)_mm512_set1_epi64(static_cast<int64_t>(x)); }

CONVINIT_HD F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
CONVINIT_HD F64 fma(F64 a, F64 b, F64 c) { return _mm512_fmadd_pd(a, b, c); }
CONVINIT_HD F32 sqrt(F32 x) { return _mm512_sqrt_ps(x); }
CONVINIT_HD F64 sqrt(F64 x) { return _mm512_sqrt_pd(x); }
CONVINIT_HD F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
CONVINIT_HD F64 min(F64 a, F64 b) { return _mm512_min_pd(a, b); }
CONVINIT_HD F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
CONVINIT_HD F64 max(F64 a, F64 b) { return _mm512_max_pd(a, b); }
CONVINIT_HD F32 select(Mask32 mask, F32 yes, F32 no) { return _mm512_mask_blend_ps(mask, no, yes); }
CONVINIT_HD F64 select(Mask64 mask, F64 yes, F64 no) { return _mm512_mask_blend_pd(mask, no, yes); }
CONVINIT_HD Mask32 less(I32 a, I32 b) { return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b); }
CONVINIT_HD Mask32 less(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
CONVINIT_HD Mask64 less(F64 a, F64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
CONVINIT_HD Mask32 top_bit(U32 word) { return _mm512_movepi32_mask((__m512i)word); }
CONVINIT_HD Mask64 top_bit(U64 word) { return _mm512_movepi64_mask((__m512i)word); }
CONVINIT_HD Mask32 second_bit(U32 word) {
  return _mm512_test_epi32_mask((__m512i)word, _mm512_set1_epi32(0x40000000));
}
CONVINIT_HD F32 select_negative(Mask32 mask, F32 yes, F32 no) {
  return _mm512_mask_xor_ps(no, mask, yes, splat(-0.0f));
}
CONVINIT_HD F32 flip_sign(F32 x, U32 word) { return (F32)((U32)x ^ (word & 0x80000000u)); }
CONVINIT_HD F64 flip_sign(F64 x, U64 word) { return (F64)((U64)x ^ (word & 0x8000000000000000u)); }

CONVINIT_HD F32 to_float(U32 x) { return _mm512_cvtepu32_ps((__m512i)x); }
CONVINIT_HD F32 to_float(I32 x) { return _mm512_cvtepi32_ps((__m512i)x); }
CONVINIT_HD F64 to_double(I64 x) { return _mm512_cvtepi64_pd((__m512i)x); }
CONVINIT_HD F64 unsigned53_to_double(U64 x) { return _mm512_cvtepi64_pd((__m512i)x); }

CONVINIT_HD U64 multiply_wide(U64 x, uint32_t m) {
  return (U64)_mm512_mul_epu32((__m512i)x, (__m512i)splat(static_cast<uint64_t>(m)));
}
// Of the lower halves of each lane.
CONVINIT_HD U64 multiply_lower(U64 a, U64 b) { return (U64)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
// A value that stays in its register: GCC would load it once more for each multiplication.
#define CONVINIT_KEEPS_WEIGHTS 1
CONVINIT_HD U64 kept(U64 x) {
  asm("" : "+v"(x));
  return x;
}
CONVINIT_HD U64 xor3(U64 a, U64 b, U64 c) {
  constexpr int kXor3 = 0x96;
  return (U64)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, kXor3);
}
CONVINIT_HD U64 join(U64 low, U64 high) {
  constexpr __mmask16 kOddWords = 0xAAAA;
  return (U64)_mm512_mask_shuffle_epi32((__m512i)low, kOddWords, (__m512i)high, _MM_PERM_CCAA);
}
CONVINIT_HD U64 join_high(U64 low, U64 high) {
  constexpr __mmask16 kEvenWords = 0x5555;
  return (U64)_mm512_mask_shuffle_epi32((__m512i)high, kEvenWords, (__m512i)low, _MM_PERM_DDBB);
}

// The same with zeros in the lowest byte of each word, by shuffles of bytes: a uniform value needs no more,
// and no shift then.
#define CONVINIT_JOINS_UPPER_BYTES 1
CONVINIT_HD __m512i in_each_16_bytes(__m128i x) { return _mm512_broadcast_i32x4(x); }
CONVINIT_HD U64 join_upper(U64 low, U64 high) {
  constexpr __mmask64 kChanged = 0xF1F1F1F1F1F1F1F1;
  const __m512i from = in_each_16_bytes(_mm_setr_epi8(-1, 0, 0, 0, -1, 1, 2, 3, -1, 0, 0, 0, -1, 9, 10, 11));
  return (U64)_mm512_mask_shuffle_epi8((__m512i)low, kChanged, (__m512i)high, from);
}
CONVINIT_HD U64 join_high_upper(U64 low, U64 high) {
  constexpr __mmask64 kChanged = 0x1F1F1F1F1F1F1F1F;
  const __m512i from = in_each_16_bytes(_mm_setr_epi8(-1, 5, 6, 7, -1, 0, 0, 0, -1, 13, 14, 15, -1, 0, 0, 0));
  return (U64)_mm512_mask_shuffle_epi8((__m512i)high, kChanged, (__m512i)low, from);
}

CONVINIT_HD U64 counters(uint32_t first) {
  const U64 order = {0, 4, 1, 5, 2, 6, 3, 7};
  return splat(static_cast<uint64_t>(first)) + order;
}

CONVINIT_HD void store(float* to, F32 even, F32 odd) {
  _mm512_storeu_ps(to, _mm512_unpacklo_ps(even, odd));
  _mm512_storeu_ps(to + 16, _mm512_unpackhi_ps(even, odd));
}
CONVINIT_HD void store(double* to, F64 even, F64 odd) {
  _mm512_storeu_pd(to, _mm512_unpacklo_pd(even, odd));
  _mm512_storeu_pd(to + 8, _mm512_unpackhi_pd(even, odd));
}
CONVINIT_HD void store(Half* to, F32 even, F32 odd) {
  constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT;
  const F32 low = _mm512_unpacklo_ps(even, odd), high = _mm512_unpackhi_ps(even, odd);
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph(low, kNearestEven));
  _mm256_storeu_si256((__m256i*)(to + 16), _mm512_cvtps_ph(high, kNearestEven));
}
// As to_bfloat16 in core/dtype.h (the hardware's own conversion flushes denormals), the upper halves of 32
// floats in one vector and the lower ones in another: one more where the lower half is above the middle, or
// on it and the upper one odd. A computed NaN stays one.
CONVINIT_HD void store(BFloat16* to, F32 even, F32 odd) {
  constexpr __mmask64 kEvenHalves = 0x3333333333333333;
  const __m512i down = in_each_16_bytes(_mm_setr_epi8(2, 3, 0, 0, 6, 7, 0, 0, 10, 11, 0, 0, 14, 15, 0, 0));
  const __m512i up = in_each_16_bytes(_mm_setr_epi8(0, 0, 0, 1, 0, 0, 4, 5, 0, 0, 8, 9, 0, 0, 12, 13));
  const __m512i upper = _mm512_mask_shuffle_epi8((__m512i)odd, kEvenHalves, (__m512i)even, down);
  const __m512i lower = _mm512_mask_shuffle_epi8((__m512i)even, ~kEvenHalves, (__m512i)odd, up);
  constexpr int kOrAnd = 0xF8;  // a | (b & c)
  const __m512i one = _mm512_set1_epi16(1), order = {0, 2, 4, 6, 1, 3, 5, 7};
  const __m512i rest = _mm512_ternarylogic_epi32(lower, upper, one, kOrAnd);
  const __mmask32 is_more = _mm512_cmpgt_epu16_mask(rest, _mm512_set1_epi16(-0x8000));
  const __m512i rounded = _mm512_mask_add_epi16(upper, is_more, upper, one);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, rounded));
}

// For float8. Halves of a word are signed; packing takes 128 bits of a, then of b, in turn, and clamps.
CONVINIT_HD U32 add_halves(U32 x, int low_weight, int high_weight) {
  return (U32)_mm512_madd_epi16((__m512i)x, _mm512_set1_epi32(high_weight << 16 | low_weight));
}
CONVINIT_HD U32 shift_halves(U32 x, int bits) { return (U32)_mm512_srli_epi16((__m512i)x, bits); }
CONVINIT_HD U32 pack_words(U32 a, U32 b) { return (U32)_mm512_packs_epi32((__m512i)a, (__m512i)b); }
CONVINIT_HD U32 pack_halves(U32 a, U32 b) { return (U32)_mm512_packs_epi16((__m512i)a, (__m512i)b); }
// Each 128 bits hold the bytes of even elements, then those of odd ones, of every fourth block.
CONVINIT_HD void store_bytes(void* to, U32 x) {
  const __m512i in_turn =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i blocks = _mm512_shuffle_epi8((__m512i)x, in_turn);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, blocks));
}

#include "cpu/float8.inl"

}  // namespace vector

#include "cpu/simd_x4.inl"

#include "cpu/wide_words.inl"

CONVINIT_HD X2<vector::Mask32> second_bit(X2<vector::U32> word) {
  return {vector::second_bit(word.x), vector::second_bit(word.y)};
}
CONVINIT_HD X2<vector::F32> select_negative(X2<vector::Mask32> mask, X2<vector::F32> yes,
                                            X2<vector::F32> no) {
  return {vector::select_negative(mask.x, yes.x, no.x), vector::select_negative(mask.y, yes.y, no.y)};
}
CONVINIT_HD Mask32 second_bit(U32 word) { return {second_bit(word.x), second_bit(word.y)}; }
CONVINIT_HD F32 select_negative(Mask32 mask, F32 yes, F32 no) {
  return {select_negative(mask.x, yes.x, no.x), select_negative(mask.y, yes.y, no.y)};
}

}  // namespace avx512
}  // namespace convinit
