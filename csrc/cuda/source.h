// Where a task's values come from: the generator and a distribution, or a constant. A source makes the
// elements of one Philox block, or one vector of 16 bytes, at a time.
#pragma once

#include "core/distribution.h"
#include "core/philox.h"
#include "cuda/convert.h"
#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

CONVINIT_HD const Parameters<float>& parameters(const DeviceFill& task, float) { return task.single; }
CONVINIT_HD const Parameters<double>& parameters(const DeviceFill& task, double) { return task.real; }

// Whether segments may be Shape::kVectors and kBlocks: not where values take most of the time anyhow.
template <class Sampler>
constexpr bool kMakesWhole = true;
template <>
constexpr bool kMakesWhole<scalar::TruncatedNormal> = false;

template <class Sampler, class Element>
struct Samples {
  using Out = Element;
  using Real = typename Computed<Out>::Real;
  static constexpr int kPerBlock = Computed<Out>::kPerBlock;
  static constexpr int kPerVector = kVectorBytes / sizeof(Out);
  static constexpr bool kHasWhole = kMakesWhole<Sampler>;

  CONVINIT_HD_METHOD explicit Samples(const DeviceFill& task)
      : p(parameters(task, Real(0))), key(task.key), high(0), keys(scalar::make_round_keys(task.key, 0)) {}

  const Parameters<Real> p;
  const Key key;
  uint32_t high;
  scalar::RoundKeys keys;  // of the 2^32 blocks that share the upper half `high`
};

// Goes to the blocks of another upper half.
template <class Sampler, class Out>
CONVINIT_HD void seek(Samples<Sampler, Out>* samples, uint32_t high) {
  if (samples->high == high) return;
  samples->high = high;
  samples->keys = scalar::make_round_keys(samples->key, high);
}

// Values in the order of the index.
CONVINIT_HD void in_order(const scalar::Values32& values, float* to) {
  CONVINIT_UNROLL
  for (int i = 0; i < scalar::kVectors32; ++i) {
    to[2 * i] = values.even[i];
    to[2 * i + 1] = values.odd[i];
  }
}
CONVINIT_HD void in_order(const scalar::Values64& values, double* to) {
  to[0] = values.even;
  to[1] = values.odd;
}

// What makes the values of vectors: task_list_host.h sees to it that it may.
template <class Sampler>
struct VectorSampler {
  using Type = Sampler;
};
template <>
struct VectorSampler<scalar::Uniform> {
  using Type = scalar::ScaledUniform;
};

// The vector that starts with the block whose index has the lower half `low`.
template <class Sampler, class Out>
CONVINIT_HD Vector vector_at(const Samples<Sampler, Out>& samples, uint32_t low) {
  using Source = Samples<Sampler, Out>;
  typename Source::Real values[Source::kPerVector];
  CONVINIT_UNROLL
  for (int b = 0; b < Source::kPerVector / Source::kPerBlock; ++b) {
    in_order(
        scalar::values_of_group(typename VectorSampler<Sampler>::Type(), samples.p, samples.keys, low + b),
        values + b * Source::kPerBlock);
  }
  return vector_of<Out>(values);
}

// The elements of that block.
template <class Sampler, class Out, int kCount>
CONVINIT_HD void block_at(const Samples<Sampler, Out>& samples, uint32_t low, Out (&out)[kCount]) {
  typename Samples<Sampler, Out>::Real values[kCount];
  in_order(scalar::values_of_group(Sampler(), samples.p, samples.keys, low), values);
  CONVINIT_UNROLL
  for (int i = 0; i < kCount; ++i) scalar::convert(values[i], &out[i]);
}

// A constant: items of its size, four to a block as if they had been made.
template <class Item>
struct Repeated {
  using Out = Item;
  static constexpr int kPerBlock = kVectorBytes / (sizeof(Item) < 4 ? 4 : sizeof(Item));
  static constexpr int kPerVector = kVectorBytes / sizeof(Item);
  static constexpr bool kHasWhole = true;

  CONVINIT_HD_METHOD explicit Repeated(const DeviceFill& task) : pattern(task.pattern) {}

  const uint64_t pattern;
};

template <class Item>
CONVINIT_HD void seek(Repeated<Item>*, uint32_t) {}
template <class Item>
CONVINIT_HD Vector vector_at(const Repeated<Item>& repeated, uint32_t) {
  const uint32_t low = scalar::low_half(repeated.pattern), high = scalar::high_half(repeated.pattern);
  return {{low, high, low, high}};
}
template <class Item, int kCount>
CONVINIT_HD void block_at(const Repeated<Item>& repeated, uint32_t, Item (&out)[kCount]) {
  CONVINIT_UNROLL
  for (int i = 0; i < kCount; ++i) out[i] = static_cast<Item>(repeated.pattern);
}

}  // namespace cuda
}  // namespace convinit
