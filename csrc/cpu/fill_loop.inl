// The fill loop, once for every lane type: a run of linear indices in whole groups, with a part of a group at
// each end. Included by fill_*.cpp after the lanes, inside their target region.

#include "core/distribution.h"
#include "core/dtype.h"
#include "core/philox.h"
#include "cpu/generate.h"

namespace convinit {
namespace CONVINIT_LANES {

// Per output type: the precision it is computed in, and elements a block.
template <class Out>
struct Layout {
  using Real = float;
  static constexpr int kPerBlock = 4;
};
template <>
struct Layout<double> {
  using Real = double;
  static constexpr int kPerBlock = 2;
};

CONVINIT_HD const Parameters<float>& parameters(const Distribution& d, float) { return d.single; }
CONVINIT_HD const Parameters<double>& parameters(const Distribution& d, double) { return d.real; }

template <class Sampler, class Out>
CONVINIT_HD void store_group(const Parameters<typename Layout<Out>::Real>& p, const Schedule& schedule,
                             Word block_low, Out* out) {
  const auto values = values_of_group(Sampler(), p, schedule, block_low);
  store(out, values.even, values.odd);
}

// A run within 2^32 blocks of one schedule; `skip` elements of its first block come before it.
template <class Sampler, class Out>
CONVINIT_HD void generate_run(const Parameters<typename Layout<Out>::Real>& p, const Schedule& schedule,
                              uint32_t first_block, int64_t skip, int64_t count, Out* out) {
  constexpr int64_t kGroup = kBlocks * Layout<Out>::kPerBlock;
  const Word step = word(kBlocks);
  Word block_low = counters(first_block);
  Out part[kGroup];
  if (skip > 0) {
    store_group<Sampler>(p, schedule, block_low, part);
    const int64_t head = count < kGroup - skip ? count : kGroup - skip;
    memcpy(out, part + skip, head * sizeof(Out));
    out += head;
    count -= head;
    block_low = block_low + step;
  }
  for (; count >= kGroup; count -= kGroup, out += kGroup, block_low = block_low + step) {
    store_group<Sampler>(p, schedule, block_low, out);
  }
  if (count > 0) {
    store_group<Sampler>(p, schedule, block_low, part);
    memcpy(out, part, count * sizeof(Out));
  }
}

template <class Sampler, class Out>
static void generate(const Distribution& distribution, const Key& key, int64_t start, int64_t count,
                     void* out) {
  constexpr int64_t kPerBlock = Layout<Out>::kPerBlock;
  constexpr int64_t kBlocksPerSchedule = int64_t{1} << 32;
  const Parameters<typename Layout<Out>::Real> p = parameters(distribution, typename Layout<Out>::Real(0));
  Out* to = static_cast<Out*>(out);
  while (count > 0) {
    const int64_t block = start / kPerBlock;
    const int64_t end = (block / kBlocksPerSchedule + 1) * kBlocksPerSchedule * kPerBlock;
    const int64_t length = count < end - start ? count : end - start;
    const Schedule schedule = make_schedule(key, static_cast<uint32_t>(block / kBlocksPerSchedule));
    generate_run<Sampler, Out>(p, schedule, static_cast<uint32_t>(block), start % kPerBlock, length, to);
    start += length;
    count -= length;
    to += length;
  }
}

template <class Out>
static void generate_constant(const Distribution& distribution, const Key&, int64_t, int64_t count,
                              void* out) {
  Out value;
  convert(parameters(distribution, typename Layout<Out>::Real(0)).value, &value);
  Out* to = static_cast<Out*>(out);
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// In the order of Kind and DType.
static constexpr GenerateTable make_table(const char* isa) {
  return {isa,
          weigh,
          {{generate_constant<float>, generate_constant<double>, generate_constant<Half>,
            generate_constant<BFloat16>, generate_constant<Float8E4M3>, generate_constant<Float8E5M2>},
           {generate<Uniform, float>, generate<Uniform, double>, generate<Uniform, Half>,
            generate<Uniform, BFloat16>, generate<Uniform, Float8E4M3>, generate<Uniform, Float8E5M2>},
           {generate<Normal, float>, generate<Normal, double>, generate<Normal, Half>,
            generate<Normal, BFloat16>, generate<Normal, Float8E4M3>, generate<Normal, Float8E5M2>},
           {generate<TruncatedNormal, float>, generate<TruncatedNormal, double>,
            generate<TruncatedNormal, Half>, generate<TruncatedNormal, BFloat16>,
            generate<TruncatedNormal, Float8E4M3>, generate<TruncatedNormal, Float8E5M2>}}};
}

}  // namespace CONVINIT_LANES
}  // namespace convinit
