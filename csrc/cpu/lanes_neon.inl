// The lanes of core/lanes.h for Arm's Advanced SIMD (NEON): 4 words or 2 blocks a vector, blocks in their
// order.
#include "core/dtype.h"
#include "cpu/isa.h"

namespace convinit {
namespace neon {
namespace vector {

typedef uint32_t U32 __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
typedef float F32 __attribute__((vector_size(16)));
typedef uint64_t U64 __attribute__((vector_size(16)));
typedef int64_t I64 __attribute__((vector_size(16)));
typedef double F64 __attribute__((vector_size(16)));
using Mask32 = I32;
using Mask64 = I64;

constexpr int kBlocks = 2;

CONVINIT_HD F32 splat(float x) { return (F32)vdupq_n_f32(x); }
CONVINIT_HD F64 splat(double x) { return (F64)vdupq_n_f64(x); }
CONVINIT_HD I32 splat(int32_t x) { return (I32)vdupq_n_s32(x); }
CONVINIT_HD U32 splat(uint32_t x) { return (U32)vdupq_n_u32(x); }
CONVINIT_HD U64 splat(uint64_t x) { return (U64)vdupq_n_u64(x); }

CONVINIT_HD F32 fma(F32 a, F32 b, F32 c) {
  return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
CONVINIT_HD F64 fma(F64 a, F64 b, F64 c) {
  return (F64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
CONVINIT_HD F32 sqrt(F32 x) { return (F32)vsqrtq_f32((float32x4_t)x); }
CONVINIT_HD F64 sqrt(F64 x) { return (F64)vsqrtq_f64((float64x2_t)x); }
CONVINIT_HD F32 select(Mask32 mask, F32 yes, F32 no) {
  return (F32)vbslq_f32((uint32x4_t)mask, (float32x4_t)yes, (float32x4_t)no);
}
CONVINIT_HD F64 select(Mask64 mask, F64 yes, F64 no) {
  return (F64)vbslq_f64((uint64x2_t)mask, (float64x2_t)yes, (float64x2_t)no);
}
CONVINIT_HD Mask32 less(I32 a, I32 b) { return a < b; }
CONVINIT_HD Mask32 less(F32 a, F32 b) { return a < b; }
CONVINIT_HD Mask64 less(F64 a, F64 b) { return a < b; }
// By a comparison: fmin and fmax differ from core/lanes.h for NaNs and zeros.
CONVINIT_HD F32 min(F32 a, F32 b) { return select(a < b, a, b); }
CONVINIT_HD F64 min(F64 a, F64 b) { return select(a < b, a, b); }
CONVINIT_HD F32 max(F32 a, F32 b) { return select(a > b, a, b); }
CONVINIT_HD F64 max(F64 a, F64 b) { return select(a > b, a, b); }
CONVINIT_HD Mask32 top_bit(U32 word) { return (I32)word < 0; }
CONVINIT_HD Mask64 top_bit(U64 word) { return (I64)word < 0; }
CONVINIT_HD F32 flip_sign(F32 x, U32 word) { return (F32)((U32)x ^ (word & 0x80000000u)); }
CONVINIT_HD F64 flip_sign(F64 x, U64 word) { return (F64)((U64)x ^ (word & 0x8000000000000000u)); }

CONVINIT_HD F32 to_float(U32 x) { return (F32)vcvtq_f32_u32((uint32x4_t)x); }
CONVINIT_HD F32 to_float(I32 x) { return (F32)vcvtq_f32_s32((int32x4_t)x); }
CONVINIT_HD F64 to_double(I64 x) { return (F64)vcvtq_f64_s64((int64x2_t)x); }
CONVINIT_HD F64 unsigned53_to_double(U64 x) { return to_double((I64)x); }

CONVINIT_HD U32 xor3(U32 a, U32 b, U32 c) { return a ^ b ^ c; }
CONVINIT_HD U64 xor3(U64 a, U64 b, U64 c) { return a ^ b ^ c; }

// Lanes of two vectors in turn, of their lower and of their upper halves; every second lane of both.
CONVINIT_HD U32 zip_lower(U32 a, U32 b) { return (U32)vzip1q_u32((uint32x4_t)a, (uint32x4_t)b); }
CONVINIT_HD U32 zip_upper(U32 a, U32 b) { return (U32)vzip2q_u32((uint32x4_t)a, (uint32x4_t)b); }
CONVINIT_HD U64 zip_lower(U64 a, U64 b) { return (U64)vzip1q_u64((uint64x2_t)a, (uint64x2_t)b); }
CONVINIT_HD U64 zip_upper(U64 a, U64 b) { return (U64)vzip2q_u64((uint64x2_t)a, (uint64x2_t)b); }
CONVINIT_HD U32 even_lanes(U32 a, U32 b) { return (U32)vuzp1q_u32((uint32x4_t)a, (uint32x4_t)b); }
CONVINIT_HD U32 odd_lanes(U32 a, U32 b) { return (U32)vuzp2q_u32((uint32x4_t)a, (uint32x4_t)b); }

// Products of two lanes, in lanes of twice the width.
CONVINIT_HD U64 multiply_lower(U32 a, U32 b) {
  return (U64)vmull_u32(vget_low_u32((uint32x4_t)a), vget_low_u32((uint32x4_t)b));
}
CONVINIT_HD U64 multiply_upper(U32 a, U32 b) { return (U64)vmull_high_u32((uint32x4_t)a, (uint32x4_t)b); }

template <class To, class Vector>
CONVINIT_HD void write(To* to, Vector x) {
  memcpy(to, &x, sizeof x);
}
CONVINIT_HD void store(float* to, F32 even, F32 odd) {
  write(to, zip_lower((U32)even, (U32)odd));
  write(to + 4, zip_upper((U32)even, (U32)odd));
}
CONVINIT_HD void store(double* to, F64 even, F64 odd) {
  write(to, zip_lower((U64)even, (U64)odd));
  write(to + 2, zip_upper((U64)even, (U64)odd));
}
CONVINIT_HD void store(Half* to, F32 even, F32 odd) {
  const float16x4_t lower = vcvt_f16_f32((float32x4_t)zip_lower((U32)even, (U32)odd));
  write(to, vcvt_high_f16_f32(lower, (float32x4_t)zip_upper((U32)even, (U32)odd)));
}
// As to_bfloat16 in core/dtype.h, in the upper half of each lane. A computed NaN stays one.
CONVINIT_HD U32 rounded_to_bfloat16(F32 x) {
  const U32 bits = (U32)x;
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}
CONVINIT_HD void store(BFloat16* to, F32 even, F32 odd) {
  write(to, (rounded_to_bfloat16(odd) & 0xffff0000u) | rounded_to_bfloat16(even) >> 16);
}

// For float8. Halves of a word are signed; packing takes all of a, then of b, and clamps.
CONVINIT_HD U32 add_halves(U32 x, int low_weight, int high_weight) {
  const I32 low = (I32)(x << 16) >> 16, high = (I32)x >> 16;
  return (U32)(low * low_weight + high * high_weight);
}
CONVINIT_HD U32 shift_halves(U32 x, int bits) {
  typedef uint16_t Halves __attribute__((vector_size(16)));
  return (U32)((Halves)x >> bits);
}
CONVINIT_HD U32 pack_words(U32 a, U32 b) {
  return (U32)vqmovn_high_s32(vqmovn_s32((int32x4_t)a), (int32x4_t)b);
}
CONVINIT_HD U32 pack_halves(U32 a, U32 b) {
  return (U32)vqmovn_high_s16(vqmovn_s16((int16x8_t)a), (int16x8_t)b);
}
// The bytes of even elements, then those of odd ones.
CONVINIT_HD void store_bytes(void* to, U32 x) {
  const uint8x16_t bytes = (uint8x16_t)x;
  write(to, vzip1q_u8(bytes, vextq_u8(bytes, bytes, 8)));
}

#include "cpu/float8.inl"

}  // namespace vector

#include "cpu/simd_x4.inl"

// Words fill their lanes: a multiply that widens takes half a vector of them, and its low and high words are
// gathered from two.
using Word = X2<vector::U32>;
struct Product {
  Word low, high;
};
using SameWord = vector::U32;
using SamePair = vector::U64;
CONVINIT_HD SameWord same_word(uint32_t x) { return vector::splat(x); }
CONVINIT_HD SamePair same_pair(uint32_t low, uint32_t high) {
  return vector::splat(low | static_cast<uint64_t>(high) << 32);
}
CONVINIT_HD Word word(SameWord x) { return {x, x}; }
CONVINIT_HD U64 pair(SamePair x) { return everywhere(x); }
CONVINIT_HD Word word(uint32_t x) { return word(same_word(x)); }
CONVINIT_HD Product multiply_wide(Word x, uint32_t m) {
  const vector::U32 same = vector::splat(m);
  const vector::U32 a = (vector::U32)vector::multiply_lower(x.x, same);
  const vector::U32 b = (vector::U32)vector::multiply_upper(x.x, same);
  const vector::U32 c = (vector::U32)vector::multiply_lower(x.y, same);
  const vector::U32 d = (vector::U32)vector::multiply_upper(x.y, same);
  return {{vector::even_lanes(a, b), vector::even_lanes(c, d)},
          {vector::odd_lanes(a, b), vector::odd_lanes(c, d)}};
}
CONVINIT_HD Word low_word(Product product) { return product.low; }
CONVINIT_HD Word high_word(Product product) { return product.high; }
CONVINIT_HD U64 join(Word low, Word high) {
  return {{(vector::U64)vector::zip_lower(low.x, high.x), (vector::U64)vector::zip_upper(low.x, high.x)},
          {(vector::U64)vector::zip_lower(low.y, high.y), (vector::U64)vector::zip_upper(low.y, high.y)}};
}
CONVINIT_HD U64 join_high(Product low, Product high) { return join(low.high, high.high); }
CONVINIT_HD Word counters(uint32_t first) {
  const vector::U32 order = {0, 1, 2, 3};
  return {vector::splat(first) + order, vector::splat(first + 4) + order};
}
// Counters that are kBlocks further on, and their products with m.
CONVINIT_HD Product next_product(Word* counters, Product, uint32_t m) {
  *counters = *counters + word(kBlocks);
  return multiply_wide(*counters, m);
}

// A digest's words times its weights.
CONVINIT_HD vector::U64 products(vector::U64 words, const uint32_t* weights) {
  const vector::U32 a = (vector::U32)words, b = (vector::U32)load(weights);
  return vector::multiply_lower(a, b) + vector::multiply_upper(a, b);
}

}  // namespace neon
}  // namespace convinit
