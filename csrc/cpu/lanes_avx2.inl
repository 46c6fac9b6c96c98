// The lanes of core/lanes.h for AVX2, FMA and F16C: 8 words or 4 blocks a vector. Included inside a target
// region; defines nothing outside its own namespace. Blocks sit in the order 0 2 1 3, so that interleaving
// 128-bit wise restores theirs.
#include "core/dtype.h"
#include "cpu/isa.h"

namespace convinit {
namespace avx2 {
namespace vector {

typedef uint32_t U32 __attribute__((vector_size(32)));
typedef int32_t I32 __attribute__((vector_size(32)));
typedef float F32 __attribute__((vector_size(32)));
typedef uint64_t U64 __attribute__((vector_size(32)));
typedef int64_t I64 __attribute__((vector_size(32)));
typedef double F64 __attribute__((vector_size(32)));
using Mask32 = I32;
using Mask64 = I64;

constexpr int kBlocks = 4;

CONVINIT_HD F32 splat(float x) { return _mm256_set1_ps(x); }
CONVINIT_HD F64 splat(double x) { return _mm256_set1_pd(x); }
CONVINIT_HD I32 splat(int32_t x) { return (I32)_mm256_set1_epi32(x); }
CONVINIT_HD U64 splat(uint64_t x) { return (U64)_mm256_set1_epi64x(static_cast<int64_t>(x)); }

CONVINIT_HD F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
CONVINIT_HD F64 fma(F64 a, F64 b, F64 c) { return _mm256_fmadd_pd(a, b, c); }
CONVINIT_HD F32 sqrt(F32 x) { return _mm256_sqrt_ps(x); }
CONVINIT_HD F64 sqrt(F64 x) { return _mm256_sqrt_pd(x); }
CONVINIT_HD F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
CONVINIT_HD F64 min(F64 a, F64 b) { return _mm256_min_pd(a, b); }
CONVINIT_HD F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
CONVINIT_HD F64 max(F64 a, F64 b) { return _mm256_max_pd(a, b); }
CONVINIT_HD F32 select(Mask32 mask, F32 yes, F32 no) { return _mm256_blendv_ps(no, yes, (F32)mask); }
CONVINIT_HD F64 select(Mask64 mask, F64 yes, F64 no) { return _mm256_blendv_pd(no, yes, (F64)mask); }
CONVINIT_HD Mask32 less(I32 a, I32 b) { return a < b; }
CONVINIT_HD Mask32 less(F32 a, F32 b) { return a < b; }
CONVINIT_HD Mask64 less(F64 a, F64 b) { return a < b; }
// A blend looks at the top bit only.
CONVINIT_HD Mask32 top_bit(U32 word) { return (Mask32)word; }
CONVINIT_HD Mask64 top_bit(U64 word) { return (Mask64)word; }
CONVINIT_HD F32 flip_sign(F32 x, U32 word) { return (F32)((U32)x ^ (word & 0x80000000u)); }
CONVINIT_HD F64 flip_sign(F64 x, U64 word) { return (F64)((U64)x ^ (word & 0x8000000000000000u)); }

// The upper 16 bits as 2^39 + x and the lower ones as 2^23 + x, both exact; their sum rounds once.
CONVINIT_HD F32 to_float(U32 x) {
  constexpr int kOddHalves = 0xAA;
  const __m256i low = _mm256_blend_epi16((__m256i)x, _mm256_set1_epi32(0x4b000000), kOddHalves);
  const __m256i high = _mm256_blend_epi16((__m256i)(x >> 16), _mm256_set1_epi32(0x53000000), kOddHalves);
  return ((F32)high - splat(0x1p39f + 0x1p23f)) + (F32)low;
}
CONVINIT_HD F32 to_float(I32 x) { return _mm256_cvtepi32_ps((__m256i)x); }
// Likewise in two halves: the signed upper 32 bits as 2^84 + 2^63 + x, the lower ones as 2^52 + x.
CONVINIT_HD F64 to_double(I64 x) {
  constexpr int kOddWords = 0xAA;
  const U64 magic_high = splat(uint64_t{0x4530000080000000});
  const __m256i low = _mm256_blend_epi32((__m256i)x, _mm256_set1_epi64x(0x4330000000000000), kOddWords);
  const U64 high = ((U64)x >> 32) ^ magic_high;
  return ((F64)high - splat(0x1p84 + 0x1p63 + 0x1p52)) + (F64)low;
}
CONVINIT_HD F64 unsigned53_to_double(U64 x) { return to_double((I64)x); }

CONVINIT_HD U64 multiply_wide(U64 x, uint32_t m) {
  return (U64)_mm256_mul_epu32((__m256i)x, (__m256i)splat(static_cast<uint64_t>(m)));
}
// Of the lower halves of each lane.
CONVINIT_HD U64 multiply_lower(U64 a, U64 b) { return (U64)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
CONVINIT_HD U64 xor3(U64 a, U64 b, U64 c) { return a ^ (b ^ c); }
CONVINIT_HD U64 join(U64 low, U64 high) {
  constexpr int kOddWords = 0xAA;
  return (U64)_mm256_blend_epi32((__m256i)low, (__m256i)(high << 32), kOddWords);
}
CONVINIT_HD U64 join_high(U64 low, U64 high) {
  constexpr int kOddWords = 0xAA;
  return (U64)_mm256_blend_epi32((__m256i)(low >> 32), (__m256i)high, kOddWords);
}

CONVINIT_HD U64 counters(uint32_t first) {
  const U64 order = {0, 2, 1, 3};
  return splat(static_cast<uint64_t>(first)) + order;
}

CONVINIT_HD void store(float* to, F32 even, F32 odd) {
  _mm256_storeu_ps(to, _mm256_unpacklo_ps(even, odd));
  _mm256_storeu_ps(to + 8, _mm256_unpackhi_ps(even, odd));
}
CONVINIT_HD void store(double* to, F64 even, F64 odd) {
  _mm256_storeu_pd(to, _mm256_unpacklo_pd(even, odd));
  _mm256_storeu_pd(to + 4, _mm256_unpackhi_pd(even, odd));
}
CONVINIT_HD void store(Half* to, F32 even, F32 odd) {
  constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT;
  const F32 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
  _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph(low, kNearestEven));
  _mm_storeu_si128((__m128i*)(to + 8), _mm256_cvtps_ph(high, kNearestEven));
}
// As to_bfloat16 in core/dtype.h, in the upper half of each lane. A computed NaN stays one.
CONVINIT_HD U32 rounded_to_bfloat16(F32 x) {
  const U32 bits = (U32)x;
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}
CONVINIT_HD void store(BFloat16* to, F32 even, F32 odd) {
  constexpr int kOddHalves = 0xAA, kOrder = 0xD8;  // 0 2 1 3
  const __m256i low = (__m256i)(rounded_to_bfloat16(even) >> 16);
  const __m256i packed = _mm256_blend_epi16(low, (__m256i)rounded_to_bfloat16(odd), kOddHalves);
  _mm256_storeu_si256((__m256i*)to, _mm256_permute4x64_epi64(packed, kOrder));
}

// For float8. Halves of a word are signed; packing takes 128 bits of a, then of b, in turn, and clamps.
CONVINIT_HD U32 add_halves(U32 x, int low_weight, int high_weight) {
  return (U32)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi32(high_weight << 16 | low_weight));
}
CONVINIT_HD U32 shift_halves(U32 x, int bits) { return (U32)_mm256_srli_epi16((__m256i)x, bits); }
CONVINIT_HD U32 pack_words(U32 a, U32 b) { return (U32)_mm256_packs_epi32((__m256i)a, (__m256i)b); }
CONVINIT_HD U32 pack_halves(U32 a, U32 b) { return (U32)_mm256_packs_epi16((__m256i)a, (__m256i)b); }
// Each 128 bits hold the bytes of even elements, then those of odd ones, of every second block.
CONVINIT_HD void store_bytes(void* to, U32 x) {
  const __m256i in_turn =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i blocks = _mm256_shuffle_epi8((__m256i)x, in_turn);
  _mm256_storeu_si256((__m256i*)to, _mm256_permutevar8x32_epi32(blocks, order));
}

#include "cpu/float8.inl"

}  // namespace vector

#include "cpu/simd_x4.inl"

#include "cpu/wide_words.inl"

}  // namespace avx2
}  // namespace convinit
