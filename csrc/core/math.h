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
  return fma(e, splat(kNeg2Ln2), f * horner(kCoefficients, f));
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
  return fma(e, splat(kNeg2Ln2), f * horner(kCoefficients, f));
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
  const F32 s = x * horner(kSin, x2);
  const F32 c = horner(kCos, x2);
  const Mask32 swap = top_bit(word << 1);
  const F32 turned = flip_sign(radius, word);
  return {turned * select(swap, -s, c), turned * select(swap, c, s)};
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
  const F64 s = x * horner(kSin, x2);
  const F64 c = horner(kCos, x2);
  const Mask64 swap = top_bit(word << 1);
  const F64 turned = flip_sign(radius, word);
  return {turned * select(swap, -s, c), turned * select(swap, c, s)};
}

// z >= 0 whose upper tail probability is exp(-radius^2 / 2) <= 1/2, for radius up to 7 (float) or 8.9
// (double). (radius - sqrt(2 ln 2)) times a polynomial, so that the median is exactly 0. Error 1e-6 (float),
// 1e-10 (double), times max(1, z).
CONVINIT_HD F32 near_quantile(F32 radius) {
  constexpr float kCoefficients[] = {1.20498991f,    -0.105424739f,   0.0567077436f,    -0.0314625911f,
                                     0.0176538788f,  -0.00938195642f, 0.00594306737f,   -0.00574997114f,
                                     0.00242210855f, 0.00186716171f,  -0.000202088719f, -0.00225799275f,
                                     0.00107152807f};
  constexpr float kMedianRadius = 1.17741002f;
  return (radius - kMedianRadius) * horner(kCoefficients, (radius - 4.0f) * 0.375f);
}

CONVINIT_HD F64 near_quantile(F64 radius) {
  constexpr double kCoefficients[] = {
      1.1720625871950285,    -0.109787484764715,     0.072768622088257517,  -0.049361285736549403,
      0.034044161058379957,  -0.023795079372942087,  0.016811756080433241,  -0.011935693089367287,
      0.0086454068131768102, -0.0069039239939815249, 0.0046429978077587837, 0.00057239681967535382,
      0.0015651513445902334, -0.017860002919431597,  0.0067705416191463424, 0.042774366120622832,
      -0.017370344927950563, -0.082218984652112692,  0.039350172750353005,  0.10205492342696945,
      -0.053814149901222547, -0.083348797166544503,  0.04770582139322558,   0.039695083547500093,
      -0.024211176301344676, -0.0087653884899459508, 0.0056700905203918702};
  constexpr double kMedianRadius = 1.1774100225154747;
  return (radius - kMedianRadius) * horner(kCoefficients, (radius - 5.0) * 0.25);
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

// The same quantile for any larger radius; a smaller one, whose result nobody takes, is made as large, since
// its y would not be positive. With y = z^2, -2 ln(tail) = y + ln(2 pi y) - 2 ln(scaled_mills(y)) = radius^2:
// two Newton steps from the first-order solution.
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
