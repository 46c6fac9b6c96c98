// Two of a lane type side by side as one, and two of those again. The formulas are long chains in which each
// operation waits for the one before; independent chains keep the execution units busy. Included inside the
// namespace of an instruction set, after its `vector` namespace has defined the types and operations for one
// vector.

template <class Vector>
struct X2 {
  Vector x, y;
};
template <class Vector>
using X4 = X2<X2<Vector>>;

using U32 = X4<vector::U32>;
using I32 = X4<vector::I32>;
using F32 = X4<vector::F32>;
using U64 = X4<vector::U64>;
using I64 = X4<vector::I64>;
using F64 = X4<vector::F64>;
using Mask32 = X4<vector::Mask32>;
using Mask64 = X4<vector::Mask64>;

constexpr int kBlocks = 4 * vector::kBlocks;
constexpr int kVectors32 = 1;

template <class To, class From>
CONVINIT_HD To bit_cast(From from) {
  return (To)from;
}
template <class To, class Vector>
CONVINIT_HD To bit_cast(X2<Vector> from) {
  return {bit_cast<decltype(To::x)>(from.x), bit_cast<decltype(To::y)>(from.y)};
}

template <class Vector>
CONVINIT_HD X4<Vector> everywhere(Vector x) {
  return {{x, x}, {x, x}};
}
CONVINIT_HD F32 splat(float x) { return everywhere(vector::splat(x)); }
CONVINIT_HD F64 splat(double x) { return everywhere(vector::splat(x)); }
CONVINIT_HD I32 splat(int32_t x) { return everywhere(vector::splat(x)); }

// Operators on two of a kind, and on one and a number for every lane.
#define CONVINIT_X2_OPERATOR(op)                                   \
  template <class Vector>                                          \
  CONVINIT_HD X2<Vector> operator op(X2<Vector> a, X2<Vector> b) { \
    return {a.x op b.x, a.y op b.y};                               \
  }                                                                \
  template <class Vector, class Number>                            \
  CONVINIT_HD X2<Vector> operator op(X2<Vector> a, Number b) {     \
    return {a.x op b, a.y op b};                                   \
  }
CONVINIT_X2_OPERATOR(+)
CONVINIT_X2_OPERATOR(-)
CONVINIT_X2_OPERATOR(*)
CONVINIT_X2_OPERATOR(/)
CONVINIT_X2_OPERATOR(&)
CONVINIT_X2_OPERATOR(^)
CONVINIT_X2_OPERATOR(<<)
CONVINIT_X2_OPERATOR(>>)

template <class Vector>
CONVINIT_HD X2<Vector> operator-(X2<Vector> a) {
  return {-a.x, -a.y};
}
template <class Vector>
CONVINIT_HD X2<Vector> operator~(X2<Vector> a) {
  return {~a.x, ~a.y};
}
template <class Vector, class Number>
CONVINIT_HD X2<Vector> operator/(Number a, X2<Vector> b) {
  return {a / b.x, a / b.y};
}
template <class Vector, class Number>
CONVINIT_HD X2<Vector> operator*(Number a, X2<Vector> b) {
  return {a * b.x, a * b.y};
}

// Functions of one, two and three vectors. Lanes that have more of them use the macros again.
#define CONVINIT_X2_FUNCTION1(name)                           \
  using vector::name;                                         \
  template <class A>                                          \
  CONVINIT_HD auto name(X2<A> a) -> X2<decltype(name(a.x))> { \
    return {name(a.x), name(a.y)};                            \
  }
#define CONVINIT_X2_FUNCTION2(name)                                         \
  using vector::name;                                                       \
  template <class A, class B>                                               \
  CONVINIT_HD auto name(X2<A> a, X2<B> b) -> X2<decltype(name(a.x, b.x))> { \
    return {name(a.x, b.x), name(a.y, b.y)};                                \
  }
#define CONVINIT_X2_FUNCTION3(name)                    \
  using vector::name;                                  \
  template <class A, class B>                          \
  CONVINIT_HD X2<B> name(X2<A> a, X2<B> b, X2<B> c) {  \
    return {name(a.x, b.x, c.x), name(a.y, b.y, c.y)}; \
  }
CONVINIT_X2_FUNCTION1(sqrt)
CONVINIT_X2_FUNCTION1(to_double)
CONVINIT_X2_FUNCTION1(to_float)
CONVINIT_X2_FUNCTION1(top_bit)
CONVINIT_X2_FUNCTION1(unsigned53_to_double)
CONVINIT_X2_FUNCTION2(flip_sign)
CONVINIT_X2_FUNCTION2(less)
CONVINIT_X2_FUNCTION2(max)
CONVINIT_X2_FUNCTION2(min)
CONVINIT_X2_FUNCTION3(fma)
CONVINIT_X2_FUNCTION3(select)
CONVINIT_X2_FUNCTION3(xor3)

CONVINIT_HD vector::U64 load(const void* from) {
  vector::U64 lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
CONVINIT_HD void split(U64 pairs, U32 (&words)[1]) { words[0] = bit_cast<U32>(pairs); }

using vector::store;
template <class Out, class Vector>
CONVINIT_HD void store(Out* to, X2<Vector> even, X2<Vector> odd) {
  store(to, even.x, odd.x);
  store(to + 2 * sizeof(Vector) / sizeof(typename Computed<Out>::Real), even.y, odd.y);
}
// Bytes take two pairs a vector.
CONVINIT_HD void store(Float8E4M3* to, X2<vector::F32> even, X2<vector::F32> odd) {
  store(to, even.x, odd.x, even.y, odd.y);
}
CONVINIT_HD void store(Float8E5M2* to, X2<vector::F32> even, X2<vector::F32> odd) {
  store(to, even.x, odd.x, even.y, odd.y);
}
template <class Out>
CONVINIT_HD void store(Out* to, const F32 (&even)[1], const F32 (&odd)[1]) {
  store(to, even[0], odd[0]);
}
