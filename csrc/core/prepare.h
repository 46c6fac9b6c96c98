// Host only: turns a distribution as the user gives it into Parameters, in double. No libm transcendental
// here either: the tail masses of a truncated normal decide bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

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

constexpr double kInvSqrt2Pi = 0.39894228040143267794;
constexpr double kSeriesEnd = 3.0;  // series below, continued fraction above

// Mass between 0 and z, 0 <= z < kSeriesEnd: pdf(z) * (z + z^3/3 + z^5/15 + ...), all terms positive.
static inline double series_mass(double z) {
  const Scaled g = gaussian(z);
  double term = z, sum = z;
  for (int n = 3; n < 140; n += 2) {
    term = term * (z * z) / n;
    sum += term;
  }
  return std::ldexp(g.mantissa * kInvSqrt2Pi * sum, static_cast<int>(g.exponent));
}

// Upper tail of the standard normal, z >= 0; above kSeriesEnd by Laplace's continued fraction (relative error
// 1e-15).
static inline Scaled upper_tail(double z) {
  if (z > kFarthestSigma) return {0, 0};
  if (z < kSeriesEnd) return {0.5 - series_mass(z), 0};
  double fraction = z;
  for (int n = 200; n >= 1; --n) fraction = z + n / fraction;
  const Scaled g = gaussian(z);
  return {g.mantissa * kInvSqrt2Pi / fraction, g.exponent};
}

static inline double to_double(const Scaled& x) {
  constexpr int64_t kUnderflow = -2000;
  return std::ldexp(x.mantissa, static_cast<int>(x.exponent < kUnderflow ? kUnderflow : x.exponent));
}

static inline double half_mass(double z) {
  return z < kSeriesEnd ? series_mass(z) : 0.5 - to_double(upper_tail(z));
}

// Lower and upper masses outside [alpha, beta], the mass inside, all times 2^exponent; alpha <= 0.
struct Masses {
  double lower, upper, inside;
  double exponent;
};

static inline Masses two_sided_masses(double alpha, double beta) {
  return {to_double(upper_tail(-alpha)), to_double(upper_tail(beta)), half_mass(-alpha) + half_mass(beta), 0};
}

// beta <= 0. Scaled so that the larger tail's mantissa is in [1/2, 1); the upper mass is set out of reach.
static inline Masses one_sided_masses(double alpha, double beta) {
  constexpr double kNeverNearer = 2;
  const Scaled outer = upper_tail(-alpha), inner = upper_tail(-beta);
  int shift = 0;
  const double mantissa = std::frexp(inner.mantissa, &shift);
  const int64_t exponent = -(inner.exponent + shift);
  const double lower = to_double({outer.mantissa, outer.exponent + exponent});
  return {lower, kNeverNearer, mantissa - lower, static_cast<double>(exponent)};
}

// Smallest u that a word gives, and the smallest probability that the near polynomial of math.h covers.
template <class Real>
struct TailLimits;
template <>
struct TailLimits<float> {
  static constexpr double kSmallestU = 0x1p-33, kNearProbability = 0x1p-35, kNarrow = 0.02;
};
template <>
struct TailLimits<double> {
  static constexpr double kSmallestU = 0x1p-54, kNearProbability = 0x1p-57, kNarrow = 0.002;
};

template <class Real>
static inline void set_masses(Parameters<Real>* p, const Masses& masses) {
  p->lower = static_cast<Real>(masses.lower);
  p->upper = static_cast<Real>(masses.upper);
  p->span = static_cast<Real>(masses.inside);
  p->exponent = static_cast<Real>(masses.exponent);
  const double outside = masses.lower < masses.upper ? masses.lower : masses.upper;
  const double smallest = outside + TailLimits<Real>::kSmallestU * masses.inside;
  p->far_tail = masses.exponent > 60 ||
                std::ldexp(smallest, -static_cast<int>(masses.exponent)) < TailLimits<Real>::kNearProbability;
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

// In an interval of few sigmas the density is nearly exp(-c x), c = width * middle, over x in [0, 1], and a
// probability near 1/2 has too few bits left to tell its places apart. The inverse there, to second order in
// c (error in z below 1e-6 for float, 1e-9 for double), keeps all of them.
template <class Real>
static inline void set_narrow(Parameters<Real>* p, double alpha, double beta, double width) {
  const double farthest = std::fmax(1.0, std::fmax(std::fabs(alpha), std::fabs(beta)));
  p->narrow = (beta - alpha) * farthest <= TailLimits<Real>::kNarrow;
  if (!p->narrow) return;
  p->flip = 0;
  p->span = static_cast<Real>(width);
  p->warp = static_cast<Real>(-(beta - alpha) * (alpha + beta) / 4);
}

template <class Real>
static inline void set_truncated(Parameters<Real>* p, double mean, double std, double a, double b, bool flip,
                                 const Masses& masses) {
  set_normal(p, mean, flip ? -std : std);
  set_masses(p, masses);
  p->low = static_cast<Real>(a);
  p->high = static_cast<Real>(b);
  p->flip = flip ? ~0u : 0u;
}

static inline Distribution prepare_truncated_normal(double mean, double std, double a, double b) {
  if (std == 0) return prepare_constant(mean < a ? a : mean > b ? b : mean);
  double alpha = (a - mean) / std, beta = (b - mean) / std;
  if (alpha > kFarthestSigma) return prepare_constant(a);
  if (beta < -kFarthestSigma) return prepare_constant(b);
  const double lowest = alpha, highest = beta;
  const bool flip = alpha > 0;
  if (flip) {
    const double mirrored = -alpha;
    alpha = -beta;
    beta = mirrored;
  }
  const Masses masses = beta <= 0 ? one_sided_masses(alpha, beta) : two_sided_masses(alpha, beta);
  Distribution d{};
  d.kind = Kind::kTruncatedNormal;
  set_truncated(&d.single, mean, std, a, b, flip, masses);
  set_truncated(&d.real, mean, std, a, b, flip, masses);
  set_narrow(&d.single, lowest, highest, b - a);
  set_narrow(&d.real, lowest, highest, b - a);
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
