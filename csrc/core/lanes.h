// The scalar lane type: every operation that the formulas need beyond the operators, for one value at a time.
// The GPU and the portable CPU path use it; cpu/lanes_avx2.inl, lanes_avx512.inl and lanes_neon.inl define
// the same names for vectors.
//
// A group is kBlocks Philox blocks. Its words fill 2 * kVectors32 vectors of 32-bit lanes or two of 64-bit
// lanes, and it stays in two halves, values from even words and from odd words, until a store interleaves
// them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"

#ifdef CONVINIT_SCALAR_LANES
namespace convinit {
namespace scalar {

using U32 = uint32_t;
using I32 = int32_t;
using F32 = float;
using U64 = uint64_t;
using I64 = int64_t;
using F64 = double;
using Mask32 = bool;
using Mask64 = bool;

constexpr int kBlocks = 1;
constexpr int kVectors32 = 2;

template <class To, class From>
CONVINIT_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

CONVINIT_HD F32 splat(float x) { return x; }
CONVINIT_HD F64 splat(double x) { return x; }
CONVINIT_HD I32 splat(int32_t x) { return x; }

CONVINIT_HD float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
CONVINIT_HD double fma(double a, double b, double c) { return ::fma(a, b, c); }
CONVINIT_HD float sqrt(float x) { return ::sqrtf(x); }
CONVINIT_HD double sqrt(double x) { return ::sqrt(x); }
template <class T>
CONVINIT_HD T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}
template <class T>
CONVINIT_HD bool less(T a, T b) {
  return a < b;
}
// As SSE's minps and maxps: the second argument where the comparison is false, so a NaN bound never wins.
template <class T>
CONVINIT_HD T min(T a, T b) {
  return a < b ? a : b;
}
template <class T>
CONVINIT_HD T max(T a, T b) {
  return a > b ? a : b;
}

// Whether the top bit of a word is set, and x with its sign flipped where it is.
CONVINIT_HD bool top_bit(U32 word) { return static_cast<I32>(word) < 0; }
CONVINIT_HD bool top_bit(U64 word) { return static_cast<I64>(word) < 0; }
CONVINIT_HD F32 flip_sign(F32 x, U32 word) { return bit_cast<F32>(bit_cast<U32>(x) ^ (word & 0x80000000u)); }
CONVINIT_HD F64 flip_sign(F64 x, U64 word) {
  return bit_cast<F64>(bit_cast<U64>(x) ^ (word & 0x8000000000000000u));
}

// Conversions round to nearest even. unsigned53_to_double takes values below 2^53 only.
CONVINIT_HD F32 to_float(U32 x) { return static_cast<float>(x); }
CONVINIT_HD F32 to_float(I32 x) { return static_cast<float>(x); }
CONVINIT_HD F64 to_double(I64 x) { return static_cast<double>(x); }
CONVINIT_HD F64 unsigned53_to_double(U64 x) { return static_cast<double>(static_cast<I64>(x)); }

// A word of Philox, and the product of two. Vector lanes of x86 keep each in a 64-bit lane, a word in its low
// half, the high half arbitrary. Here a product is two words: a GPU has 32 bits, and makes both with one
// instruction.
using Word = U32;
struct Product {
  Word low, high;
};
CONVINIT_HD Product multiply_wide(Word x, uint32_t m) {
#if defined(__CUDA_ARCH__)
  return {x * m, __umulhi(x, m)};
#else
  const uint64_t product = static_cast<uint64_t>(x) * m;
  return {static_cast<uint32_t>(product), static_cast<uint32_t>(product >> 32)};
#endif
}
CONVINIT_HD Word low_word(Product product) { return product.low; }
CONVINIT_HD Word high_word(Product product) { return product.high; }
CONVINIT_HD Word xor3(Word a, Word b, Word c) { return a ^ b ^ c; }
CONVINIT_HD U64 xor3(U64 a, U64 b, U64 c) { return a ^ b ^ c; }
// A word, and two words to a 64-bit lane, that are the same in every lane.
using SameWord = uint32_t;
using SamePair = uint64_t;
CONVINIT_HD SameWord same_word(uint32_t x) { return x; }
CONVINIT_HD SamePair same_pair(uint32_t low, uint32_t high) {
  return low | static_cast<uint64_t>(high) << 32;
}
CONVINIT_HD Word word(SameWord x) { return x; }
CONVINIT_HD U64 pair(SamePair x) { return x; }
// Two words as one 64-bit lane; and the high words of two products.
CONVINIT_HD U64 join(Word low, Word high) { return low | static_cast<U64>(high) << 32; }
CONVINIT_HD U64 join_high(Product low, Product high) { return join(low.high, high.high); }

// Low halves of the counters of a group that starts at block `first`.
CONVINIT_HD Word counters(uint32_t first) { return first; }
// Counters that are kBlocks further on, and their products with m.
CONVINIT_HD Product next_product(Word* counters, Product, uint32_t m) {
  return multiply_wide(*counters += kBlocks, m);
}

// The halves of 64-bit lanes as 32-bit lanes.
CONVINIT_HD void split(U64 pairs, U32 (&words)[kVectors32]) {
  words[0] = static_cast<U32>(pairs);
  words[1] = static_cast<U32>(pairs >> 32);
}

}  // namespace scalar
}  // namespace convinit
#endif
