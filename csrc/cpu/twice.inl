// Two of a lane type side by side as one, and two of those again. The formulas are long chains in which each
// operation waits for the one before; independent chains keep the execution units busy. Included inside the
// namespace of an instruction set, after its `vector` namespace has defined the types and operations for one
// vector.

template <class Vector>
struct Twice {
  Vector x, y;
};
template <class Vector>
using Lanes = Twice<Twice<Vector>>;

using U32 = Lanes<vector::U32>;
using I32 = Lanes<vector::I32>;
using F32 = Lanes<vector::F32>;
using U64 = Lanes<vector::U64>;
using I64 = Lanes<vector::I64>;
using F64 = Lanes<vector::F64>;
using Mask32 = Lanes<vector::Mask32>;
using Mask64 = Lanes<vector::Mask64>;

constexpr int kBlocks = 4 * vector::kBlocks;
constexpr int kVectors32 = 1;

// What the functions below come down to.
using vector::flip_sign;
using vector::fma;
using vector::less;
using vector::max;
using vector::min;
using vector::select;
using vector::sqrt;
using vector::store;
using vector::to_double;
using vector::to_float;
using vector::top_bit;
using vector::unsigned53_to_double;
using vector::xor3;

template <class To, class From>
CONVINIT_HD To bit_cast(From from) {
  return (To)from;
}
template <class To, class Vector>
CONVINIT_HD To bit_cast(Twice<Vector> from) {
  return {bit_cast<decltype(To::x)>(from.x), bit_cast<decltype(To::y)>(from.y)};
}

template <class Vector>
CONVINIT_HD Lanes<Vector> everywhere(Vector x) {
  return {{x, x}, {x, x}};
}
CONVINIT_HD F32 splat(float x) { return everywhere(vector::splat(x)); }
CONVINIT_HD F64 splat(double x) { return everywhere(vector::splat(x)); }

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
template <class Vector, class Number>
CONVINIT_HD Twice<Vector> operator/(Number a, Twice<Vector> b) {
  return {a / b.x, a / b.y};
}
template <class Vector, class Number>
CONVINIT_HD Twice<Vector> operator*(Number a, Twice<Vector> b) {
  return {a * b.x, a * b.y};
}

template <class Vector>
CONVINIT_HD Twice<Vector> fma(Twice<Vector> a, Twice<Vector> b, Twice<Vector> c) {
  return {fma(a.x, b.x, c.x), fma(a.y, b.y, c.y)};
}
template <class Vector>
CONVINIT_HD Twice<Vector> sqrt(Twice<Vector> a) {
  return {sqrt(a.x), sqrt(a.y)};
}
template <class Vector>
CONVINIT_HD Twice<Vector> min(Twice<Vector> a, Twice<Vector> b) {
  return {min(a.x, b.x), min(a.y, b.y)};
}
template <class Vector>
CONVINIT_HD Twice<Vector> max(Twice<Vector> a, Twice<Vector> b) {
  return {max(a.x, b.x), max(a.y, b.y)};
}
template <class Vector>
CONVINIT_HD Twice<Vector> xor3(Twice<Vector> a, Twice<Vector> b, Twice<Vector> c) {
  return {xor3(a.x, b.x, c.x), xor3(a.y, b.y, c.y)};
}
template <class Mask, class Vector>
CONVINIT_HD Twice<Vector> select(Twice<Mask> mask, Twice<Vector> yes, Twice<Vector> no) {
  return {select(mask.x, yes.x, no.x), select(mask.y, yes.y, no.y)};
}
template <class Vector>
CONVINIT_HD auto less(Twice<Vector> a, Twice<Vector> b) -> Twice<decltype(less(a.x, b.x))> {
  return {less(a.x, b.x), less(a.y, b.y)};
}
template <class Vector, class Word>
CONVINIT_HD Twice<Vector> flip_sign(Twice<Vector> a, Twice<Word> word) {
  return {flip_sign(a.x, word.x), flip_sign(a.y, word.y)};
}

// Functions of one lane type.
#define CONVINIT_TWICE_FUNCTION(name)                                    \
  template <class Vector>                                                \
  CONVINIT_HD auto name(Twice<Vector> a) -> Twice<decltype(name(a.x))> { \
    return {name(a.x), name(a.y)};                                       \
  }
CONVINIT_TWICE_FUNCTION(top_bit)
CONVINIT_TWICE_FUNCTION(to_float)
CONVINIT_TWICE_FUNCTION(to_double)
CONVINIT_TWICE_FUNCTION(unsigned53_to_double)
#undef CONVINIT_TWICE_FUNCTION

CONVINIT_HD vector::U64 load(const void* from) {
  vector::U64 lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
CONVINIT_HD void split(U64 pairs, U32 (&words)[1]) { words[0] = bit_cast<U32>(pairs); }

template <class Out, class Vector>
CONVINIT_HD void store(Out* to, Twice<Vector> even, Twice<Vector> odd) {
  store(to, even.x, odd.x);
  store(to + 2 * sizeof(Vector) / sizeof(float), even.y, odd.y);
}
template <class Vector>
CONVINIT_HD void store(double* to, Twice<Vector> even, Twice<Vector> odd) {
  store(to, even.x, odd.x);
  store(to + 2 * sizeof(Vector) / sizeof(double), even.y, odd.y);
}
// Bytes take two pairs a vector.
CONVINIT_HD void store(Float8E4M3* to, Twice<vector::F32> even, Twice<vector::F32> odd) {
  store(to, even.x, odd.x, even.y, odd.y);
}
CONVINIT_HD void store(Float8E5M2* to, Twice<vector::F32> even, Twice<vector::F32> odd) {
  store(to, even.x, odd.x, even.y, odd.y);
}
template <class Out>
CONVINIT_HD void store(Out* to, const F32 (&even)[1], const F32 (&odd)[1]) {
  store(to, even[0], odd[0]);
}
