// Two vectors side by side as one lane type. The formulas are long chains in which each operation waits for
// the one before; two independent chains keep the execution units busy. Included inside the namespace of an
// instruction set, after its `vector` namespace has defined the types and operations for one vector.

template <class Vector>
struct Twice {
  Vector x, y;
};

using U32 = Twice<vector::U32>;
using I32 = Twice<vector::I32>;
using F32 = Twice<vector::F32>;
using U64 = Twice<vector::U64>;
using I64 = Twice<vector::I64>;
using F64 = Twice<vector::F64>;
using Mask32 = Twice<vector::Mask32>;
using Mask64 = Twice<vector::Mask64>;

constexpr int kBlocks = 2 * vector::kBlocks;
constexpr int kVectors32 = 1;

template <class To, class Vector>
CONVINIT_HD To bit_cast(Twice<Vector> from) {
  return {(decltype(To::x))from.x, (decltype(To::y))from.y};
}

CONVINIT_HD F32 splat(float x) { return {vector::splat(x), vector::splat(x)}; }
CONVINIT_HD F64 splat(double x) { return {vector::splat(x), vector::splat(x)}; }
CONVINIT_HD U64 splat(uint64_t x) { return {vector::splat(x), vector::splat(x)}; }

// Operators on two of a kind, and on one and a number for every lane.
#define CONVINIT_TWICE_OPERATOR(op)                                         \
  template <class Vector>                                                   \
  CONVINIT_HD Twice<Vector> operator op(Twice<Vector> a, Twice<Vector> b) { \
    return {a.x op b.x, a.y op b.y};                                        \
  }                                                                         \
  template <class Vector, class Number>                                     \
  CONVINIT_HD Twice<Vector> operator op(Twice<Vector> a, Number b) {        \
    return {a.x op b, a.y op b};                                            \
  }
CONVINIT_TWICE_OPERATOR(+)
CONVINIT_TWICE_OPERATOR(-)
CONVINIT_TWICE_OPERATOR(*)
CONVINIT_TWICE_OPERATOR(/)
CONVINIT_TWICE_OPERATOR(&)
CONVINIT_TWICE_OPERATOR(^)
CONVINIT_TWICE_OPERATOR(<<)
CONVINIT_TWICE_OPERATOR(>>)
#undef CONVINIT_TWICE_OPERATOR

template <class Vector>
CONVINIT_HD Twice<Vector> operator-(Twice<Vector> a) {
  return {-a.x, -a.y};
}
template <class Vector>
CONVINIT_HD Twice<Vector> operator~(Twice<Vector> a) {
  return {~a.x, ~a.y};
}
template <class Vector>
CONVINIT_HD Twice<Vector> operator/(double a, Twice<Vector> b) {
  return {vector::splat(a) / b.x, vector::splat(a) / b.y};
}
template <class Vector>
CONVINIT_HD Twice<Vector> operator/(float a, Twice<Vector> b) {
  return {vector::splat(a) / b.x, vector::splat(a) / b.y};
}
template <class Vector, class Number>
CONVINIT_HD Twice<Vector> operator*(Number a, Twice<Vector> b) {
  return {a * b.x, a * b.y};
}

template <class Vector>
CONVINIT_HD Twice<Vector> fma(Twice<Vector> a, Twice<Vector> b, Twice<Vector> c) {
  return {vector::fma(a.x, b.x, c.x), vector::fma(a.y, b.y, c.y)};
}
template <class Vector>
CONVINIT_HD Twice<Vector> sqrt(Twice<Vector> a) {
  return {vector::sqrt(a.x), vector::sqrt(a.y)};
}
template <class Vector>
CONVINIT_HD Twice<Vector> min(Twice<Vector> a, Twice<Vector> b) {
  return {vector::min(a.x, b.x), vector::min(a.y, b.y)};
}
template <class Vector>
CONVINIT_HD Twice<Vector> max(Twice<Vector> a, Twice<Vector> b) {
  return {vector::max(a.x, b.x), vector::max(a.y, b.y)};
}
template <class Mask, class Vector>
CONVINIT_HD Twice<Vector> select(Twice<Mask> mask, Twice<Vector> yes, Twice<Vector> no) {
  return {vector::select(mask.x, yes.x, no.x), vector::select(mask.y, yes.y, no.y)};
}
CONVINIT_HD Mask32 less(F32 a, F32 b) { return {vector::less(a.x, b.x), vector::less(a.y, b.y)}; }
CONVINIT_HD Mask64 less(F64 a, F64 b) { return {vector::less(a.x, b.x), vector::less(a.y, b.y)}; }
CONVINIT_HD Mask32 top_bit(U32 a) { return {vector::top_bit(a.x), vector::top_bit(a.y)}; }
CONVINIT_HD Mask64 top_bit(U64 a) { return {vector::top_bit(a.x), vector::top_bit(a.y)}; }
template <class Vector, class Word>
CONVINIT_HD Twice<Vector> flip_sign(Twice<Vector> a, Twice<Word> word) {
  return {vector::flip_sign(a.x, word.x), vector::flip_sign(a.y, word.y)};
}

CONVINIT_HD F32 to_float(U32 a) { return {vector::to_float(a.x), vector::to_float(a.y)}; }
CONVINIT_HD F32 to_float(I32 a) { return {vector::to_float(a.x), vector::to_float(a.y)}; }
CONVINIT_HD F64 to_double(I64 a) { return {vector::to_double(a.x), vector::to_double(a.y)}; }
CONVINIT_HD F64 unsigned53_to_double(U64 a) {
  return {vector::unsigned53_to_double(a.x), vector::unsigned53_to_double(a.y)};
}

using Word = U64;
using Product = U64;
CONVINIT_HD Word word(uint32_t x) { return splat(static_cast<uint64_t>(x)); }
CONVINIT_HD Word low_word(U64 product) { return product; }
CONVINIT_HD Word high_word(U64 product) { return product >> 32; }
CONVINIT_HD U64 multiply_wide(U64 a, uint32_t m) {
  return {vector::multiply_wide(a.x, m), vector::multiply_wide(a.y, m)};
}
CONVINIT_HD U64 xor3(U64 a, U64 b, U64 c) {
  return {vector::xor3(a.x, b.x, c.x), vector::xor3(a.y, b.y, c.y)};
}
CONVINIT_HD U64 join(U64 low, U64 high) { return {vector::join(low.x, high.x), vector::join(low.y, high.y)}; }
CONVINIT_HD U64 join_high(U64 low, U64 high) {
  return {vector::join_high(low.x, high.x), vector::join_high(low.y, high.y)};
}
CONVINIT_HD U64 counters(uint32_t first) {
  return {vector::counters(first), vector::counters(first + vector::kBlocks)};
}

CONVINIT_HD void split(U64 pairs, U32 (&words)[1]) { words[0] = bit_cast<U32>(pairs); }

template <class Out>
CONVINIT_HD void store(Out* to, const F32 (&even)[1], const F32 (&odd)[1]) {
  vector::store(to, even[0].x, odd[0].x);
  vector::store(to + 4 * vector::kBlocks, even[0].y, odd[0].y);
}
CONVINIT_HD void store(double* to, F64 even, F64 odd) {
  vector::store(to, even.x, odd.x);
  vector::store(to + 2 * vector::kBlocks, even.y, odd.y);
}
