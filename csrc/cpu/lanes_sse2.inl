// The lanes of core/lanes.h for SSE2, which every x86-64 processor has: 4 words or 2 blocks a vector, blocks
// in their order. There is no fused multiply-add: here it is made of what rounds twice, and of a look at
// whether that may differ from rounding once.
#include "core/dtype.h"
#include "cpu/isa.h"

namespace convinit {
namespace sse2 {
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

CONVINIT_HD F32 splat(float x) { return _mm_set1_ps(x); }
CONVINIT_HD F64 splat(double x) { return _mm_set1_pd(x); }
CONVINIT_HD I32 splat(int32_t x) { return (I32)_mm_set1_epi32(x); }
CONVINIT_HD U64 splat(uint64_t x) { return (U64)_mm_set1_epi64x(static_cast<int64_t>(x)); }

CONVINIT_HD F32 sqrt(F32 x) { return _mm_sqrt_ps(x); }
CONVINIT_HD F64 sqrt(F64 x) { return _mm_sqrt_pd(x); }
CONVINIT_HD F32 min(F32 a, F32 b) { return _mm_min_ps(a, b); }
CONVINIT_HD F64 min(F64 a, F64 b) { return _mm_min_pd(a, b); }
CONVINIT_HD F32 max(F32 a, F32 b) { return _mm_max_ps(a, b); }
CONVINIT_HD F64 max(F64 a, F64 b) { return _mm_max_pd(a, b); }
CONVINIT_HD F32 select(Mask32 mask, F32 yes, F32 no) { return (F32)((mask & (I32)yes) | (~mask & (I32)no)); }
CONVINIT_HD F64 select(Mask64 mask, F64 yes, F64 no) { return (F64)((mask & (I64)yes) | (~mask & (I64)no)); }
CONVINIT_HD Mask32 less(I32 a, I32 b) { return a < b; }
CONVINIT_HD Mask32 less(F32 a, F32 b) { return a < b; }
CONVINIT_HD Mask64 less(F64 a, F64 b) { return a < b; }
CONVINIT_HD Mask32 top_bit(U32 word) { return (I32)word >> 31; }
CONVINIT_HD Mask64 top_bit(U64 word) {
  return (I64)_mm_shuffle_epi32((__m128i)((I32)word >> 31), _MM_SHUFFLE(3, 3, 1, 1));
}
CONVINIT_HD F32 flip_sign(F32 x, U32 word) { return (F32)((U32)x ^ (word & 0x80000000u)); }
CONVINIT_HD F64 flip_sign(F64 x, U64 word) { return (F64)((U64)x ^ (word & 0x8000000000000000u)); }

// What follows makes fma, which SSE2 lacks. What is called, not copied, is seldom used.
#define CONVINIT_SELDOM static __attribute__((noinline, cold, unused))

CONVINIT_HD bool any(Mask64 mask) { return _mm_movemask_pd((F64)mask) != 0; }
CONVINIT_HD F64 magnitude(F64 x) { return (F64)((U64)x & 0x7fffffffffffffffu); }

// A vector of floats as doubles, and back.
CONVINIT_HD F64 lower_doubles(F32 x) { return _mm_cvtps_pd(x); }
CONVINIT_HD F64 upper_doubles(F32 x) { return _mm_cvtps_pd(_mm_movehl_ps(x, x)); }
CONVINIT_HD F64 rounded_to_float(F64 x) { return _mm_cvtps_pd(_mm_cvtpd_ps(x)); }
CONVINIT_HD F32 floats(F64 lower, F64 upper) {
  return _mm_movelh_ps(_mm_cvtpd_ps(lower), _mm_cvtpd_ps(upper));
}

struct Sum {
  F64 rounded, error;
};
CONVINIT_HD Sum exact_sum(F64 a, F64 b) {
  const F64 rounded = a + b, added = rounded - a;
  return {rounded, (a - (rounded - added)) + (b - added)};
}

// The sum, or where it is no double, the one next to it whose last bit is odd: rounded once more, to fewer
// bits, it ends where the sum itself does (Boldo and Melquiond 2008).
CONVINIT_HD F64 odd_sum(F64 a, F64 b) {
  const Sum sum = exact_sum(a, b);
  const U64 inexact = (U64)(sum.error != 0.0), is_less = ((U64)sum.rounded ^ (U64)sum.error) >> 63;
  return (F64)(((U64)sum.rounded - (is_less & inexact)) | inexact >> 63);
}

CONVINIT_SELDOM F32 careful_fma(F32 a, F32 b, F32 c) {
  return floats(odd_sum(lower_doubles(a) * lower_doubles(b), lower_doubles(c)),
                odd_sum(upper_doubles(a) * upper_doubles(b), upper_doubles(c)));
}

// A product of floats is a double. A sum that is rounded to double and then to float is right, unless the
// first rounding may have ended halfway between two floats; denormal ones have other places for that.
CONVINIT_HD F32 fma(F32 a, F32 b, F32 c) {
  const F64 lower = lower_doubles(a) * lower_doubles(b) + lower_doubles(c);
  const F64 upper = upper_doubles(a) * upper_doubles(b) + upper_doubles(c);
  const F32 result = floats(lower, upper);
  const I32 last_bits = (I32)_mm_shuffle_ps((F32)lower, (F32)upper, _MM_SHUFFLE(2, 0, 2, 0)) & 0x1fffffff;
  const I32 is_denormal = (F32)((I32)result & 0x7fffffff) <= 0x1p-126f;
  const I32 is_unsure = (last_bits == 0x10000000) | is_denormal;
  return __builtin_expect(_mm_movemask_ps((F32)is_unsure), 0) ? careful_fma(a, b, c) : result;
}

// The first 26 bits of 53, cut off or rounded to nearest: products of two such are exact, and of two of what
// the second leaves.
CONVINIT_HD F64 upper_bits(F64 x) { return (F64)((U64)x & 0xfffffffff8000000u); }
CONVINIT_HD F64 nearest_upper_bits(F64 x) { return upper_bits((F64)((U64)x + 0x4000000u)); }

// By Dekker's exact product (1971), and Boldo and Melquiond's sum of three, where nothing over- or
// underflows.
CONVINIT_SELDOM F64 careful_fma(F64 a, F64 b, F64 c) {
  const F64 product = a * b, size = magnitude(product);
  const F64 largest = max(max(magnitude(a), magnitude(b)), max(magnitude(c), size));
  if (any(~((size > 0x1p-900) & (largest < 0x1p990))))
    return F64{::fma(a[0], b[0], c[0]), ::fma(a[1], b[1], c[1])};
  const F64 upper_a = nearest_upper_bits(a), lower_a = a - upper_a;
  const F64 upper_b = nearest_upper_bits(b), lower_b = b - upper_b;
  const F64 rest =
      ((upper_a * upper_b - product) + upper_a * lower_b + lower_a * upper_b) + lower_a * lower_b;
  const Sum lower = exact_sum(c, rest), upper = exact_sum(product, lower.rounded);
  return upper.rounded + odd_sum(upper.error, lower.error);
}

// The sum of c and of the product of upper bits is exact, with its error. What is left is added last, once
// with a little less and once with a little more than its own rounding can be off.
CONVINIT_HD F64 fma(F64 a, F64 b, F64 c) {
  const F64 upper_a = upper_bits(a), upper_b = upper_bits(b), product = upper_a * upper_b;
  const Sum sum = exact_sum(product, c);
  const F64 rest = sum.error + (upper_a * (b - upper_b) + (a - upper_a) * b);
  const F64 slack = (magnitude(product) + magnitude(c)) * 0x1p-74;
  const F64 least = sum.rounded + (rest - slack), most = sum.rounded + (rest + slack);
  const Mask64 is_sure = (least == most) & (slack > 0x1p-960);
  return __builtin_expect(any(~is_sure), 0) ? careful_fma(a, b, c) : least;
}

CONVINIT_HD F64 first_bits(F64 x) { return (F64)((U64)x & 0xfffffffe00000000u); }  // 20 of them
CONVINIT_HD F64 power_of_two(F64 x) { return (F64)((U64)x & 0x7ff0000000000000u); }
CONVINIT_HD Mask64 unequal(F64 a, F64 b) { return a != b; }
CONVINIT_HD Mask64 either(Mask64 a, Mask64 b) { return a | b; }

// The upper 16 bits as 2^39 + x and the lower ones as 2^23 + x, both exact; their sum rounds once.
CONVINIT_HD F32 to_float(U32 x) {
  const U32 low = (x & 0xffffu) | 0x4b000000u, high = (x >> 16) | 0x53000000u;
  return ((F32)high - splat(0x1p39f + 0x1p23f)) + (F32)low;
}
CONVINIT_HD F32 to_float(I32 x) { return _mm_cvtepi32_ps((__m128i)x); }
// Likewise in two halves: the signed upper 32 bits as 2^84 + 2^63 + x, the lower ones as 2^52 + x.
CONVINIT_HD F64 to_double(I64 x) {
  const U64 low = ((U64)x & 0xffffffffu) | 0x4330000000000000u;
  const U64 high = ((U64)x >> 32) ^ 0x4530000080000000u;
  return ((F64)high - splat(0x1p84 + 0x1p63 + 0x1p52)) + (F64)low;
}
CONVINIT_HD F64 unsigned53_to_double(U64 x) { return to_double((I64)x); }

CONVINIT_HD U64 multiply_wide(U64 x, uint32_t m) {
  return (U64)_mm_mul_epu32((__m128i)x, (__m128i)splat(static_cast<uint64_t>(m)));
}
// Of the lower halves of each lane.
CONVINIT_HD U64 multiply_lower(U64 a, U64 b) { return (U64)_mm_mul_epu32((__m128i)a, (__m128i)b); }
CONVINIT_HD U64 xor3(U64 a, U64 b, U64 c) { return a ^ (b ^ c); }
CONVINIT_HD U64 join(U64 low, U64 high) { return (low & 0xffffffffu) | high << 32; }
CONVINIT_HD U64 join_high(U64 low, U64 high) { return low >> 32 | (high & 0xffffffff00000000u); }

CONVINIT_HD U64 counters(uint32_t first) {
  const U64 order = {0, 1};
  return splat(static_cast<uint64_t>(first)) + order;
}

CONVINIT_HD void store(float* to, F32 even, F32 odd) {
  _mm_storeu_ps(to, _mm_unpacklo_ps(even, odd));
  _mm_storeu_ps(to + 4, _mm_unpackhi_ps(even, odd));
}
CONVINIT_HD void store(double* to, F64 even, F64 odd) {
  _mm_storeu_pd(to, _mm_unpacklo_pd(even, odd));
  _mm_storeu_pd(to + 2, _mm_unpackhi_pd(even, odd));
}
// As to_half in core/dtype.h.
CONVINIT_HD I32 rounded_to_half(F32 x) {
  constexpr int32_t kNormal = static_cast<int32_t>(rebias(15) + (1u << 23)), kShift = kNormal + (13 << 23);
  const U32 bits = (U32)x & kFloatMagnitude;
  const I32 magnitude = (I32)bits, denormal = (I32)((F32)bits + (F32)splat(kShift)) - kShift;
  const I32 normal = (I32)((bits + 0xfffu + ((bits >> 13) & 1u) - rebias(15)) >> 13);
  const I32 is_nan = magnitude > static_cast<int32_t>(kFloatInfinity);
  const I32 is_beyond = magnitude >= static_cast<int32_t>(kHalfOverflow), is_denormal = magnitude < kNormal;
  const I32 finite = (is_denormal & denormal) | (~is_denormal & normal);
  const I32 beyond = (is_nan & 0x0200) | 0x7c00, sign = ((I32)x >> 16) & ~0x7fff;
  return (is_beyond & beyond) | (~is_beyond & finite) | sign;
}
CONVINIT_HD void store(Half* to, F32 even, F32 odd) {
  const I32 low = rounded_to_half(_mm_unpacklo_ps(even, odd));
  const I32 high = rounded_to_half(_mm_unpackhi_ps(even, odd));
  _mm_storeu_si128((__m128i*)to, _mm_packs_epi32((__m128i)low, (__m128i)high));
}
// As to_bfloat16 in core/dtype.h, in the upper half of each lane. A computed NaN stays one.
CONVINIT_HD U32 rounded_to_bfloat16(F32 x) {
  const U32 bits = (U32)x;
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}
CONVINIT_HD void store(BFloat16* to, F32 even, F32 odd) {
  const U32 packed = (rounded_to_bfloat16(odd) & 0xffff0000u) | rounded_to_bfloat16(even) >> 16;
  _mm_storeu_si128((__m128i*)to, (__m128i)packed);
}

// For float8. Halves of a word are signed; packing takes all of a, then of b, and clamps.
CONVINIT_HD U32 add_halves(U32 x, int low_weight, int high_weight) {
  return (U32)_mm_madd_epi16((__m128i)x, _mm_set1_epi32(high_weight << 16 | low_weight));
}
CONVINIT_HD U32 shift_halves(U32 x, int bits) { return (U32)_mm_srli_epi16((__m128i)x, bits); }
CONVINIT_HD U32 pack_words(U32 a, U32 b) { return (U32)_mm_packs_epi32((__m128i)a, (__m128i)b); }
CONVINIT_HD U32 pack_halves(U32 a, U32 b) { return (U32)_mm_packs_epi16((__m128i)a, (__m128i)b); }
// The bytes of even elements, then those of odd ones.
CONVINIT_HD void store_bytes(void* to, U32 x) {
  _mm_storeu_si128((__m128i*)to, _mm_unpacklo_epi8((__m128i)x, _mm_srli_si128((__m128i)x, 8)));
}

#include "cpu/float8.inl"

}  // namespace vector

#include "cpu/simd_x4.inl"

#include "cpu/wide_words.inl"

CONVINIT_X2_FUNCTION1(first_bits)
CONVINIT_X2_FUNCTION1(lower_doubles)
CONVINIT_X2_FUNCTION1(rounded_to_float)
CONVINIT_X2_FUNCTION1(upper_doubles)
CONVINIT_X2_FUNCTION2(either)
CONVINIT_X2_FUNCTION2(floats)
CONVINIT_X2_FUNCTION2(unequal)

using vector::any;
template <class Vector>
CONVINIT_HD bool any(X2<Vector> mask) {
  return any(either(mask.x, mask.y));
}

// As in core/math.h, where no first rounding of a step ends halfway between two floats: so it is for all
// polynomials there and all their arguments (tests/engine/test_formulas.py).
template <int kCount>
CONVINIT_HD F32 horner(const float (&coefficients)[kCount], F32 x) {
  const X2<F64> wide = {lower_doubles(x), upper_doubles(x)};
  X2<F64> sum = {splat(double{coefficients[kCount - 1]}), splat(double{coefficients[kCount - 1]})};
  CONVINIT_UNROLL
  for (int power = kCount - 2; power > 0; --power)
    sum = rounded_to_float(sum * wide + double{coefficients[power]});
  sum = sum * wide + double{coefficients[0]};
  return floats(sum.x, sum.y);
}

// Called, since a copy of it is long.
static __attribute__((noinline)) F64 called_horner(const double* coefficients, int count, F64 x) {
  F64 sum = splat(coefficients[count - 1]);
  for (int power = count - 2; power >= 0; --power) sum = fma(sum, x, splat(coefficients[power]));
  return sum;
}
template <int kCount>
CONVINIT_HD F64 horner(const double (&coefficients)[kCount], F64 x) {
  return called_horner(coefficients, kCount, x);
}

// x, each sum and each coefficient are cut where the product and sum of their upper parts are exact: x at
// 2^-26, a coefficient of 2^k to 2^(k+1) at 2^(k-50). For that a sum may not be less than 2^-6 of the
// coefficient that is added next, nor its product with x more. What is left is added as in fma.
template <int kCount>
CONVINIT_HD F64 falling_horner(const double (&coefficients)[kCount], F64 x) {
  const F64 upper_x = (x + 0x1.8p26) - 0x1.8p26, lower_x = x - upper_x;
  F64 sum = splat(coefficients[kCount - 1]);
  Mask64 is_unsure = {};
  CONVINIT_UNROLL
  for (int power = kCount - 2; power >= 0; --power) {
    const vector::F64 c = vector::splat(coefficients[power]), size = vector::power_of_two(c);
    const vector::F64 upper_c = (c + size * 6.0) - size * 6.0, lower_c = c - upper_c, slack = size * 0x1p-69;
    const F64 upper = first_bits(sum), near = upper * upper_x + upper_c;
    const F64 rest = upper * lower_x + (sum - upper) * x;
    sum = near + (rest + (lower_c - slack));
    is_unsure = either(is_unsure, unequal(sum, near + (rest + (lower_c + slack))));
  }
  return __builtin_expect(any(is_unsure), 0) ? horner(coefficients, x) : sum;
}

// As in core/math.h: the sum with 0 is exact, and no product so small that it would not be.
template <class Vector, class Real>
CONVINIT_HD X2<Vector> scaled(X2<Vector> z, Real std, Real mean) {
  if (mean == 0 && std > Real(0x1p-80)) return z * std + mean;
  return fma(z, splat(std), splat(mean));
}

}  // namespace sse2
}  // namespace convinit
