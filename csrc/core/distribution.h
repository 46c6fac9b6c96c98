// Words to values: what docs/value-contract.md, sections 3 and 4, says, for a vector of lanes.
#pragma once

#include "core/lanes.h"
#include "core/math.h"
#include "core/philox.h"
#include "core/task.h"

namespace convinit {
namespace CONVINIT_LANES {

// One value a word; u = (w >> 8) 2^-24, or (W >> 11) 2^-53 for double.
#ifdef CONVINIT_SCALAR_LANES
struct Uniform {
  CONVINIT_HD_METHOD static F32 value(const Parameters<float>& p, U32 word) {
    const F32 u = to_float(bit_cast<I32>(word >> 8)) * 0x1p-24f;
    return min(fma(u, splat(p.span), splat(p.low)), splat(p.last));
  }
  CONVINIT_HD_METHOD static F64 value(const Parameters<double>& p, U64 word) {
    const F64 u = unsigned53_to_double(word >> 11) * 0x1p-53;
    return min(fma(u, splat(p.span), splat(p.low)), splat(p.last));
  }
};

// The same values for less, where the span is at least this. 2^-24 times it is then exact, and no sum is less
// than a float's smallest step but 0, so that none is rounded to a negative zero and any minimum serves.
constexpr float kSmallestScaledSpan = 0x1p-100f;
struct ScaledUniform : Uniform {
  using Uniform::value;
  CONVINIT_HD_METHOD static F32 value(const Parameters<float>& p, U32 word) {
    return ::fminf(fma(to_float(bit_cast<I32>(word >> 8)), p.span * 0x1p-24f, p.low), p.last);
  }
};
#else
// The same values for less: functions_of() of cpu/isa.h sees to it that the span times a power of two is
// exact. What the largest u gives tells beforehand whether a value may be above the last one.
struct Uniform {
  bool is_below;
  CONVINIT_HD_METHOD F32 value(const Parameters<float>& p, U32 word) const {
#ifdef CONVINIT_JOINS_UPPER_BYTES
    const F32 x = fma(to_float(word), splat(p.span * 0x1p-32f), splat(p.low));
#else
    const F32 x = fma(to_float(bit_cast<I32>(word >> 8)), splat(p.span * 0x1p-24f), splat(p.low));
#endif
    return is_below ? x : min(x, splat(p.last));
  }
  CONVINIT_HD_METHOD F64 value(const Parameters<double>& p, U64 word) const {
    const F64 x = fma(unsigned53_to_double(word >> 11), splat(p.span * 0x1p-53), splat(p.low));
    return is_below ? x : min(x, splat(p.last));
  }
};
CONVINIT_HD Uniform prepared(Uniform, const Parameters<float>& p) {
  return {p.low < p.last && __builtin_fmaf(1 - 0x1p-24f, p.span, p.low) <= p.last};
}
CONVINIT_HD Uniform prepared(Uniform, const Parameters<double>& p) {
  return {p.low < p.last && __builtin_fma(1 - 0x1p-53, p.span, p.low) <= p.last};
}
#endif

// (w + 1/2) 2^-32, in (0, 1].
CONVINIT_HD F32 open_unit(U32 word) { return fma(to_float(word), splat(0x1p-32f), splat(0x1p-33f)); }
CONVINIT_HD F64 open_unit(U64 word) { return (unsigned53_to_double(word >> 11) + 0.5) * 0x1p-53; }

// Two values from two words (Box and Muller 1958): the even word is the radius, the odd one the angle.
struct Normal {
  CONVINIT_HD_METHOD static void values(const Parameters<float>& p, U32 even, U32 odd, F32* first,
                                        F32* second) {
    const Polar32 z = polar(sqrt(neg2log(open_unit(even), splat(0.0f))), odd);
    *first = scaled(z.x, p.std, p.mean);
    *second = scaled(z.y, p.std, p.mean);
  }
  CONVINIT_HD_METHOD static void values(const Parameters<double>& p, U64 even, U64 odd, F64* first,
                                        F64* second) {
    const Polar64 z = polar(sqrt(neg2log(open_unit(even), splat(0.0))), odd);
    *first = scaled(z.x, p.std, p.mean);
    *second = scaled(z.y, p.std, p.mean);
  }
};

// One value a word, by the inverse of the distribution function P.
struct TruncatedNormal {
  // 1 - 2 P, from the word's distance to the median's, so that it has all its digits around the median. A
  // distance of 2^31 or more wraps: to less than the first word's, or away from there.
  CONVINIT_HD_METHOD static F32 above_less_below(const Parameters<float>& p, U32 word) {
    const uint32_t center = static_cast<uint32_t>(p.center);
    const I32 distance = bit_cast<I32>(word - center);
    const Mask32 is_less = less(distance, splat(static_cast<int32_t>(0u - center)));
    return fma(to_float(distance), splat(p.slope), select(is_less, splat(p.offset_if_less), splat(p.offset)));
  }
  CONVINIT_HD_METHOD static F64 above_less_below(const Parameters<double>& p, U64 word) {
    const I64 distance = bit_cast<I64>((word >> 11) - p.center);
    return fma(to_double(distance), splat(p.slope), splat(p.offset));
  }
  // The lower one of P and 1 - P, times 2^exponent: a sum from the nearer edge.
  CONVINIT_HD_METHOD static F32 tail(const Parameters<float>& p, U32 word, F32 d) {
    const U32 nearer = word ^ bit_cast<U32>(bit_cast<I32>(d) >> 31);
    const F32 beyond = select(top_bit(bit_cast<U32>(d)), splat(p.upper), splat(p.lower));
    return fma(to_float(nearer), splat(p.span), beyond);
  }
  CONVINIT_HD_METHOD static F64 tail(const Parameters<double>& p, U64 word, F64 d) {
    const U64 nearer = word ^ bit_cast<U64>(bit_cast<I64>(d) >> 63);
    const F64 beyond = select(top_bit(bit_cast<U64>(d)), splat(p.upper), splat(p.lower));
    return fma(unsigned53_to_double(nearer >> 11), splat(p.span), beyond);
  }
  template <class Vector, class Word, class Real>
  CONVINIT_HD_METHOD static Vector narrow_quantile(const Parameters<Real>& p, Word word) {
    const Vector u = open_unit(word);
    const Vector x = fma(u * splat(p.warp), splat(Real(1)) - u, u);
    return min(max(fma(x, splat(p.span), splat(p.low)), splat(p.low)), splat(p.high));
  }
  template <class Vector, class Word, class Real>
  CONVINIT_HD_METHOD static Vector quantile(const Parameters<Real>& p, Word word) {
    if (p.narrow) return narrow_quantile<Vector>(p, word);
    const Vector d = above_less_below(p, word), t = tail(p, word, d);
    Vector z = d * quantile_ratio(neglog4(fma(-t, t, t)));
    if (p.far_tail) {
      const Vector radius = sqrt(neg2log(t, splat(p.exponent)));
      const Vector far = flip_sign(far_quantile(radius, Real(0)), bit_cast<Word>(d));
      z = select(less(splat(near_radius(Real(0))), radius), far, z);
    }
    z = fma(z, splat(p.std), splat(p.mean));
    return min(max(z, splat(p.low)), splat(p.high));
  }
  CONVINIT_HD_METHOD static F32 value(const Parameters<float>& p, U32 word) { return quantile<F32>(p, word); }
  CONVINIT_HD_METHOD static F64 value(const Parameters<double>& p, U64 word) {
    return quantile<F64>(p, word);
  }
};

// A sampler that knows what it can of the parameters.
template <class Sampler, class Real>
CONVINIT_HD Sampler prepared(Sampler sampler, const Parameters<Real>&) {
  return sampler;
}

// The other samplers make their two values apart.
template <class Sampler, class Real, class Word, class Vector>
CONVINIT_HD void pair_of_values(Sampler sampler, const Parameters<Real>& p, Word even, Word odd,
                                Vector* first, Vector* second) {
  *first = sampler.value(p, even);
  *second = sampler.value(p, odd);
}
template <class Real, class Word, class Vector>
CONVINIT_HD void pair_of_values(Normal, const Parameters<Real>& p, Word even, Word odd, Vector* first,
                                Vector* second) {
  Normal::values(p, even, odd, first, second);
}

// The values of a group of blocks: half of them from even words, half from odd words, element by element in
// turn.
struct Values32 {
  F32 even[kVectors32], odd[kVectors32];
};
struct Values64 {
  F64 even, odd;
};

// The words of the group of blocks with that first product, as a sampler takes them.
template <class Sampler>
CONVINIT_HD WordPairs words_of(Sampler, const Parameters<float>&, const RoundKeys& keys, Product first) {
  return philox_pairs(keys, first);
}
#ifdef CONVINIT_JOINS_UPPER_BYTES
CONVINIT_HD WordPairs words_of(Uniform, const Parameters<float>&, const RoundKeys& keys, Product first) {
  return philox_upper_pairs(keys, first);
}
#endif
template <class Sampler>
CONVINIT_HD Words words_of(Sampler, const Parameters<double>&, const RoundKeys& keys, Product first) {
  return philox(keys, first);
}

template <class Sampler>
CONVINIT_HD Values32 values_of(Sampler sampler, const Parameters<float>& p, const WordPairs& pairs) {
  U32 even[kVectors32], odd[kVectors32];
  split(pairs.even, even);
  split(pairs.odd, odd);
  Values32 values;
  CONVINIT_UNROLL
  for (int i = 0; i < kVectors32; ++i) {
    pair_of_values(sampler, p, even[i], odd[i], &values.even[i], &values.odd[i]);
  }
  return values;
}

template <class Sampler>
CONVINIT_HD Values64 values_of(Sampler sampler, const Parameters<double>& p, const Words& words) {
  Values64 values;
  pair_of_values(sampler, p, join(words.w0, words.w1), join(words.w2, words.w3), &values.even, &values.odd);
  return values;
}

template <class Sampler, class Real>
CONVINIT_HD auto values_of_group(Sampler sampler, const Parameters<Real>& p, const RoundKeys& keys,
                                 Word block_low) {
  return values_of(sampler, p, words_of(sampler, p, keys, first_product(block_low)));
}

}  // namespace CONVINIT_LANES
}  // namespace convinit
