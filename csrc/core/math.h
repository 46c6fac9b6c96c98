// Logarithm, sine and cosine, and the normal quantile, from correctly rounded operations only, so that every
// machine computes the same bits. Coefficients: scripts/fit_polynomials.py. Bounds were checked over all 2^32
// words (float) and against 50-digit arithmetic (double); tests/engine/test_values.py holds them to the
// contract's.
#pragma once

#include "core/lanes.h"

namespace convinit {
namespace CONVINIT_LANES {

// Horner's rule, lowest power first. Vector is F32 or F64, Real its element.
template <class Vector, class Real, int kCount>
CONVINIT_HD Vector horner(const Real (&coefficients)[kCount], Vector x) {
  Vector sum = splat(coefficients[kCount - 1]);
  CONVINIT_UNROLL
  for (int power = kCount - 2; power >= 0; --power) sum = fma(sum, x, splat(coefficients[power]));
  return sum;
}

// The same for |x| <= 1/2 and coefficients whose terms fall: lanes without an fma of their own have a cheaper
// way.
template <class Vector, class Real, int kCount>
CONVINIT_HD Vector falling_horner(const Real (&coefficients)[kCount], Vector x) {
  return horner(coefficients, x);
}

// A standard value z, moved and scaled: 0, or far from the smallest normal number.
template <class Vector, class Real>
CONVINIT_HD Vector scaled(Vector z, Real std, Real mean) {
  return fma(z, splat(std), splat(mean));
}

// -2 ln(v * 2^-exponent) for v > 0 and normal, exponent a whole number >= 0.
// v = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): near v = 1 nothing cancels. The exponent stays where v
// has it, so e comes times 2^23 (2^52). Relative error 1.2e-6 (float), 5e-16 (double) of the part in f.
CONVINIT_HD F32 neg2log(F32 v, F32 exponent) {
  constexpr float kCoefficients[] = {-2.00000191f,  1.00002229f,  -0.666290164f, 0.498194963f,
                                     -0.409926802f, 0.373356462f, -0.237920463f};
  constexpr float kNeg2Ln2 = -1.38629436f * 0x1p-23f;
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const I32 scaled = (bit_cast<I32>(v) - kSqrtHalf) & static_cast<int32_t>(0xff800000);
  const F32 e = to_float(scaled) - exponent * 0x1p23f;
  const F32 f = bit_cast<F32>(bit_cast<I32>(v) - scaled) - 1.0f;
  return fma(e, splat(kNeg2Ln2), f * falling_horner(kCoefficients, f));
}

CONVINIT_HD F64 neg2log(F64 v, F64 exponent) {
  constexpr double kCoefficients[] = {-2,
                                      0.99999999999996902,
                                      -0.66666666666674346,
                                      0.50000000001539124,
                                      -0.39999999999818636,
                                      0.33333333109789243,
                                      -0.28571428347156191,
                                      0.25000014506588758,
                                      -0.22222248541023526,
                                      0.1999950971999177,
                                      -0.18180573170363279,
                                      0.16675621220086662,
                                      -0.15414695648011789,
                                      0.1420484408414138,
                                      -0.129467537653424,
                                      0.12678532454372102,
                                      -0.14184024181418356,
                                      0.13212754548583402,
                                      -0.059829428741223163};
  constexpr double kNeg2Ln2 = -1.3862943611198906 * 0x1p-52;
  constexpr int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  const I64 scaled = (bit_cast<I64>(v) - kSqrtHalf) & static_cast<int64_t>(0xfff0000000000000);
  const F64 e = to_double(scaled) - exponent * 0x1p52;
  const F64 f = bit_cast<F64>(bit_cast<I64>(v) - scaled) - 1.0;
  return fma(e, splat(kNeg2Ln2), f * falling_horner(kCoefficients, f));
}

// Whether the bit after the top one is set; and -yes or no. AVX-512 has instructions of its own.
template <class Word>
CONVINIT_HD auto second_bit(Word word) {
  return top_bit(word << 1);
}
template <class Mask, class Vector>
CONVINIT_HD Vector select_negative(Mask mask, Vector yes, Vector no) {
  return select(mask, -yes, no);
}

struct Polar32 {
  F32 x, y;
};
struct Polar64 {
  F64 x, y;
};

// radius * (cos, sin) of (pi/2) (k + x): the word's two top bits are the quadrant k, its other 30 (62) bits
// the fraction x in [-1/2, 1/2). Odd quadrants exchange sine and cosine; the top bit turns both round, which
// the radius takes; the next bit turns the cosine. Absolute error of sine and cosine 1.5e-7 (float), 2e-16
// (double).
CONVINIT_HD Polar32 polar(F32 radius, U32 word) {
  constexpr float kSin[] = {1.57079637f, -0.64596349f, 0.079680033f, -0.00460165786f};
  constexpr float kCos[] = {1.0f, -1.2336967f, 0.253594935f, -0.0203985814f};
  constexpr float kTwoToMinus32 = 1.0f / 4294967296.0f;
  constexpr uint32_t kTopBit = 0x80000000u;
  const F32 x = to_float(bit_cast<I32>((word << 2) ^ kTopBit)) * kTwoToMinus32;
  const F32 x2 = x * x;
  const F32 s = x * falling_horner(kSin, x2);
  const F32 c = falling_horner(kCos, x2);
  const Mask32 swap = second_bit(word);
  const F32 turned = flip_sign(radius, word);
  return {turned * select_negative(swap, s, c), turned * select(swap, c, s)};
}

CONVINIT_HD Polar64 polar(F64 radius, U64 word) {
  constexpr double kSin[] = {1.5707963267948966,     -0.64596409750624428,   0.079692626246043008,
                             -0.0046817541323409756, 0.00016044115074219091, -3.5986433529823099e-06,
                             5.6339337815378543e-08};
  constexpr double kCos[] = {1.0,
                             -1.2337005501361697,
                             0.2536695079010467,
                             -0.02086348076331121,
                             0.00091926027418315576,
                             -2.520203677046026e-05,
                             4.7106097267578228e-07,
                             -6.3212568696285881e-09};
  constexpr double kTwoToMinus64 = 1.0 / 18446744073709551616.0;
  constexpr uint64_t kTopBit = 0x8000000000000000u;
  const F64 x = to_double(bit_cast<I64>((word << 2) ^ kTopBit)) * kTwoToMinus64;
  const F64 x2 = x * x;
  const F64 s = x * falling_horner(kSin, x2);
  const F64 c = falling_horner(kCos, x2);
  const Mask64 swap = second_bit(word);
  const F64 turned = flip_sign(radius, word);
  return {turned * select_negative(swap, s, c), turned * select(swap, c, s)};
}

// -ln(4 v) for v > 0 and normal. v = 2^e (1 + f) with 1 + f in [3/4, 3/2), e times 2^23 (2^52). Error 1.7e-6
// (float), 2e-11 (double), next to none where two e meet: absolute, so that less will do than in neg2log.
CONVINIT_HD F32 neglog4(F32 v) {
  constexpr float kCoefficients[] = {-1.38629293f, -0.999986827f, 0.49973312f, -0.333857417f,
                                     0.258452713f, -0.204799548f, 0.10064026f};
  constexpr float kNegLn2 = -0.693147182f * 0x1p-23f;
  constexpr int32_t kThreeQuarters = 0x3f400000;
  const I32 scaled = (bit_cast<I32>(v) - kThreeQuarters) & static_cast<int32_t>(0xff800000);
  const F32 f = bit_cast<F32>(bit_cast<I32>(v) - scaled) - 1.0f;
  return fma(to_float(scaled), splat(kNegLn2), falling_horner(kCoefficients, f));
}

CONVINIT_HD F64 neglog4(F64 v) {
  constexpr double kCoefficients[] = {-1.3862943611263312,  -1.0000000003039862,  0.50000000359836194,
                                      -0.33333327380018585, 0.2499995932593678,   -0.20000314995576488,
                                      0.16668642028043529,  -0.14279872222330806, 0.12453439476433001,
                                      -0.1112078344953993,  0.10491414237603926,  -0.098536175586866934,
                                      0.070661202604390141, -0.024894378376048833};
  constexpr double kNegLn2 = -0.69314718055994531 * 0x1p-52;
  constexpr int64_t kThreeQuarters = 0x3fe8000000000000;
  const I64 scaled = (bit_cast<I64>(v) - kThreeQuarters) & static_cast<int64_t>(0xfff0000000000000);
  const F64 f = bit_cast<F64>(bit_cast<I64>(v) - scaled) - 1.0;
  return fma(to_double(scaled), splat(kNegLn2), falling_horner(kCoefficients, f));
}

// z / (2 P - 1), where P = Phi(z), as a function of w = -ln(4 P (1 - P)): even in z and smooth, so that one
// quotient of polynomials serves from the median to where the lower one of P and 1 - P is
// exp(-near_radius^2 / 2). No coefficient is negative, and nothing cancels. Relative error 8e-7 (float),
// 2e-11 (double).
CONVINIT_HD F32 quantile_ratio(F32 w) {
  constexpr float kOver[] = {1.25331509f,   0.462773114f,   0.0931921005f,
                             0.0124796182f, 0.00107782951f, 2.85090373e-05f};
  constexpr float kUnder[] = {1.0f,           0.107448593f,    0.0331701413f,
                              0.00253761886f, 0.000172656932f, 9.47816716e-07f};
  return horner(kOver, w) / horner(kUnder, w);
}

CONVINIT_HD F64 quantile_ratio(F64 w) {
  constexpr double kOver[] = {1.2533141373294656,     0.9866921997535143,     0.29104208192413589,
                              0.057045878937496006,   0.0080995841021017194,  0.00084742783836135331,
                              6.5869807049658984e-05, 3.9598385505020619e-06, 2.3787346070097647e-07,
                              2.7123735593378762e-09, 2.8066619522416174e-12};
  constexpr double kUnder[] = {1.0,
                               0.52546708542858034,
                               0.081618976803969692,
                               0.01993523830887171,
                               0.0017087831812056559,
                               0.00020747553014754188,
                               1.0293557440102758e-05,
                               8.3788086502751279e-07,
                               2.2831648474281586e-08,
                               9.304106134451913e-11};
  return horner(kOver, w) / horner(kUnder, w);
}

constexpr float kNearRadius32 = 7.0f;
constexpr double kNearRadius64 = 8.9;
CONVINIT_HD float near_radius(float) { return kNearRadius32; }
CONVINIT_HD double near_radius(double) { return kNearRadius64; }

// z * (upper tail of z) / pdf(z) as a function of y = z^2: Laplace's continued fraction for Mills' ratio,
// contracted. Relative error below 1e-9 for y >= 36.
template <class Vector, class Real>
CONVINIT_HD Vector scaled_mills(Vector y, Real) {
  const Vector d = y + Real(17);
  const Vector c = (y + Real(13)) - Real(56) / d;
  const Vector b = (y + Real(9)) - Real(30) / c;
  const Vector a = (y + Real(5)) - Real(12) / b;
  return y / ((y + Real(1)) - Real(2) / a);
}

// z whose upper tail is exp(-radius^2 / 2), for any larger radius; a smaller one, whose result nobody takes,
// is made as large, since its y would not be positive. With y = z^2, -2 ln(tail) = y + ln(2 pi y) - 2
// ln(scaled_mills(y)) = radius^2: two Newton steps from the first-order solution.
template <class Vector, class Real>
CONVINIT_HD_CALLED Vector far_quantile(Vector radius, Real) {
  constexpr Real kTwoPi = Real(6.283185307179586);
  const Vector zero = splat(Real(0));
  const Vector far = max(radius, splat(near_radius(Real(0))));
  const Vector target = far * far;
  Vector y = target + Real(0.5) * neg2log(target * kTwoPi, zero);
  for (int step = 0; step < 2; ++step) {
    const Vector excess =
        y - target - Real(0.5) * neg2log(y * kTwoPi, zero) + neg2log(scaled_mills(y, Real(0)), zero);
    y = y - excess * y / (y + Real(1));
  }
  return sqrt(y);
}

}  // namespace CONVINIT_LANES
}  // namespace convinit
