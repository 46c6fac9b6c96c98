// Host only: turns a distribution as the user gives it into Parameters, in double. No libm transcendental
// here either: the tail masses of a truncated normal decide bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/task.h"

namespace convinit {

// mantissa * 2^exponent: tail masses far beyond the range of double.
struct Scaled {
  double mantissa;
  int64_t exponent;
};

constexpr double kFarthestSigma =
    1e9;  // beyond it a tail is narrower than any rounding: all its mass is at its edge

// exp(-z^2 / 2): the whole part of the base-two exponent apart, the fraction by Taylor's series (28 terms:
// below 1e-17).
static inline Scaled gaussian(double z) {
  constexpr double kHalfLog2E = 0.72134752044448170368;
  constexpr double kLn2 = 0.69314718055994530942;
  const double bits = z * z * kHalfLog2E;
  const double whole = std::floor(bits);
  const double x = -(bits - whole) * kLn2;
  double term = 1, sum = 1;
  for (int n = 1; n <= 28; ++n) {
    term = term * x / n;
    sum += term;
  }
  return {sum, -static_cast<int64_t>(whole)};
}

// An unevaluated sum of two doubles, good for 100 bits: where the median lies among words of 53 bits takes
// more than one has.
struct Twofold {
  double high, low;
};

static inline Twofold two_sum(double a, double b) {
  const double sum = a + b, added = sum - a;
  return {sum, (a - (sum - added)) + (b - added)};
}

static inline Twofold add(Twofold a, Twofold b) {
  const Twofold sum = two_sum(a.high, b.high);
  return two_sum(sum.high, sum.low + (a.low + b.low));
}

static inline Twofold negative(Twofold a) { return {-a.high, -a.low}; }

static inline Twofold multiply(Twofold a, Twofold b) {
  const double product = a.high * b.high;
  const double cross = a.high * b.low + a.low * b.high;
  return two_sum(product, std::fma(a.high, b.high, -product) + cross);
}

static inline Twofold divide(Twofold a, double b) {
  const double quotient = a.high / b;
  return two_sum(quotient, (std::fma(-quotient, b, a.high) + a.low) / b);
}

constexpr Twofold kInvSqrt2Pi = {0.39894228040143267794, -2.49232720227773e-17};
constexpr double kSeriesEnd = 4.0;  // series below, continued fraction above

// Mass between 0 and z, 0 <= z < kSeriesEnd: the power series of the density, integrated. No term is above
// 2^10, so that 90 bits are left.
static inline Twofold series_mass(double z) {
  constexpr double kNegligible = 0x1p-100;
  const Twofold factor = multiply({-z / 2, 0}, {z, 0});
  Twofold term = {z, 0}, sum = term;
  for (int n = 1; std::fabs(term.high) > kNegligible * z; ++n) {
    term = divide(multiply(term, factor), n);
    sum = add(sum, divide(term, 2 * n + 1));
  }
  return multiply(sum, kInvSqrt2Pi);
}

// Upper tail of the standard normal, z >= kSeriesEnd, by Laplace's continued fraction (relative error 1e-15).
static inline Scaled fraction_tail(double z) {
  if (z > kFarthestSigma) return {0, 0};
  double fraction = z;
  for (int n = 200; n >= 1; --n) fraction = z + n / fraction;
  const Scaled g = gaussian(z);
  return {g.mantissa * kInvSqrt2Pi.high / fraction, g.exponent};
}

static inline double to_double(const Scaled& x) {
  constexpr int64_t kUnderflow = -2000;
  return std::ldexp(x.mantissa, static_cast<int>(x.exponent < kUnderflow ? kUnderflow : x.exponent));
}

// Of a bound: the mass between the mean and it, and the one beyond it.
struct Bound {
  Twofold mass;
  Scaled tail;
};

static inline Bound bound_at(double z) {
  if (z < kSeriesEnd) {
    const Twofold mass = series_mass(z);
    return {mass, {add({0.5, 0}, negative(mass)).high, 0}};
  }
  const Scaled tail = fraction_tail(z);
  return {two_sum(0.5, -to_double(tail)), tail};
}

// Of [alpha, beta]: the masses outside and the one inside, all times 2^exponent; and as they are the one
// inside and the one between alpha and the mean, negative where alpha is above it. Where no value is on a
// side of the mean, the mass outside on that side is of no use, and is left out.
struct Masses {
  double lower, upper, scaled_inside;
  double exponent;
  Twofold inside, below;
};

// Around the mean, or not far from it.
static inline Masses near_masses(double alpha, double beta) {
  const Bound a = bound_at(std::fabs(alpha)), b = beta == -alpha ? a : bound_at(std::fabs(beta));
  const Twofold below = alpha < 0 ? a.mass : negative(a.mass);
  const Twofold inside = add(below, beta < 0 ? negative(b.mass) : b.mass);
  return {to_double(a.tail), to_double(b.tail), inside.high, 0, inside, below};
}

// In one tail, between `inner` and `outer` sigmas. Where that is small, the larger mass is scaled into [1/2,
// 1).
static inline Masses far_masses(double inner, double outer, bool is_upper) {
  constexpr int64_t kSmallExponent = 60;
  const Bound a = bound_at(inner), b = bound_at(outer);
  int shift = 0;
  std::frexp(a.tail.mantissa, &shift);
  const int64_t needed = -(a.tail.exponent + shift), exponent = needed > kSmallExponent ? needed : 0;
  const double outside = to_double({b.tail.mantissa, b.tail.exponent + exponent});
  const double inside = to_double({a.tail.mantissa, a.tail.exponent + exponent}) - outside;
  const Twofold as_it_is = {to_double({inside, -exponent}), 0};
  return {outside,  outside,
          inside,   static_cast<double>(exponent),
          as_it_is, is_upper ? negative(a.mass) : b.mass};
}

static inline Masses masses_of(double alpha, double beta) {
  if (alpha >= kSeriesEnd) return far_masses(alpha, beta, true);
  if (beta <= -kSeriesEnd) return far_masses(-beta, -alpha, false);
  return near_masses(alpha, beta);
}

// The smallest u that a word gives, half the distance of two; the smallest probability that quantile_ratio of
// math.h covers; and how far a narrow interval reaches, away from the median and beside it.
template <class Real>
struct Limits;
template <>
struct Limits<float> {
  static constexpr double kSmallestU = 0x1p-33, kNearProbability = 0x1p-35, kNarrow = 0.02,
                          kNarrowAtMedian = 5e-4;
};
template <>
struct Limits<double> {
  static constexpr double kSmallestU = 0x1p-54, kNearProbability = 0x1p-57, kNarrow = 2e-6,
                          kNarrowAtMedian = 2e-6;
};

template <class Real>
static inline void set_masses(Parameters<Real>* p, const Masses& masses) {
  constexpr double kHalfStep = Limits<Real>::kSmallestU, kLastWord = 0.5 / kHalfStep - 1;
  const double half_step = kHalfStep * masses.scaled_inside;
  const double lower = masses.lower + half_step, upper = masses.upper + half_step;
  p->lower = static_cast<Real>(lower);
  p->upper = static_cast<Real>(upper);
  p->span = static_cast<Real>(2 * half_step);
  p->exponent = static_cast<Real>(masses.exponent);
  p->far_tail = masses.exponent > 0 || std::fmin(lower, upper) < Limits<Real>::kNearProbability;
  // The word nearest to the median, and 1 - 2 P there. On one side of it a float's words may wrap.
  const double median = masses.below.high / masses.inside.high / (2 * kHalfStep);
  const double center = std::fmax(0.0, std::fmin(std::floor(median), kLastWord));
  const Twofold u = multiply(two_sum(center, 0.5), {2 * kHalfStep, 0});
  const double at_center = 2 * add(masses.below, negative(multiply(u, masses.inside))).high;
  const double all = 2 * masses.inside.high;
  const bool wraps_below = std::is_same<Real, float>::value && center > 0x1p31;
  p->center = static_cast<uint64_t>(center);
  p->slope = static_cast<Real>(-2 * kHalfStep * all);
  p->offset = static_cast<Real>(wraps_below ? at_center + all : at_center);
  p->offset_if_less = static_cast<Real>(wraps_below ? at_center : at_center - all);
}

static inline Distribution prepare_constant(double value) {
  Distribution d{};
  d.kind = Kind::kConstant;
  d.single.value = static_cast<float>(value);
  d.real.value = value;
  return d;
}

// The largest value allowed is the one below `high`; but never below `low`, where the interval is empty.
template <class Real>
static inline void set_uniform(Parameters<Real>* p, double low, double high) {
  p->low = static_cast<Real>(low);
  p->span = static_cast<Real>(high - low);
  p->last = std::nextafter(static_cast<Real>(high), -std::numeric_limits<Real>::infinity());
  if (p->last < p->low) p->last = p->low;
}

static inline Distribution prepare_uniform(double low, double high) {
  Distribution d{};
  d.kind = Kind::kUniform;
  set_uniform(&d.single, low, high);
  set_uniform(&d.real, low, high);
  return d;
}

template <class Real>
static inline void set_normal(Parameters<Real>* p, double mean, double std) {
  p->mean = static_cast<Real>(mean);
  p->std = static_cast<Real>(std);
}

static inline Distribution prepare_normal(double mean, double std) {
  Distribution d{};
  d.kind = Kind::kNormal;
  set_normal(&d.single, mean, std);
  set_normal(&d.real, mean, std);
  return d;
}

// In an interval of few sigmas the density is nearly exp(-c x), c = width * middle, over x in [0, 1], and
// away from the median a probability has too few bits left to tell its places apart. The inverse there, to
// second order in c, keeps all of them. Its error in z is below 1e-6 |z| or 4e-11 (float), 1e-19 (double).
template <class Real>
static inline bool set_narrow(Parameters<Real>* p, double alpha, double beta, double width) {
  const double farthest = std::fmax(1.0, std::fmax(std::fabs(alpha), std::fabs(beta)));
  const double sigmas = beta - alpha, nearest = std::fmax(0.0, std::fmax(alpha, -beta));
  const double narrow = 8 * sigmas <= nearest ? Limits<Real>::kNarrow : Limits<Real>::kNarrowAtMedian;
  p->narrow = sigmas * farthest <= narrow;
  p->span = static_cast<Real>(width);
  p->warp = static_cast<Real>(-sigmas * (alpha + beta) / 4);
  return p->narrow;
}

static inline Distribution prepare_truncated_normal(double mean, double std, double a, double b) {
  if (std == 0) return prepare_constant(mean < a ? a : mean > b ? b : mean);
  const double alpha = (a - mean) / std, beta = (b - mean) / std;
  if (alpha > kFarthestSigma) return prepare_constant(a);
  if (beta < -kFarthestSigma) return prepare_constant(b);
  const Masses masses = masses_of(alpha, beta);
  const auto set = [&](auto* p) {
    using Real = decltype(p->value);
    set_normal(p, mean, -std);
    p->low = static_cast<Real>(a);
    p->high = static_cast<Real>(b);
    if (!set_narrow(p, alpha, beta, b - a)) set_masses(p, masses);
  };
  Distribution d{};
  d.kind = Kind::kTruncatedNormal;
  set(&d.single);
  set(&d.real);
  return d;
}

static inline Distribution prepare(Kind kind, const double (&params)[4]) {
  switch (kind) {
    case Kind::kUniform:
      return prepare_uniform(params[0], params[1]);
    case Kind::kNormal:
      return prepare_normal(params[0], params[1]);
    case Kind::kTruncatedNormal:
      return prepare_truncated_normal(params[0], params[1], params[2], params[3]);
    case Kind::kConstant:
      break;
  }
  return prepare_constant(params[0]);
}

}  // namespace convinit
