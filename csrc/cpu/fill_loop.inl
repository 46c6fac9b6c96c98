// The fill loop, once for every lane type: a run of linear indices in whole groups, with a part of a group at
// each end. Included by fill_*.cpp after the lanes.

#include "core/distribution.h"
#include "core/dtype.h"
#include "core/philox.h"
#include "cpu/digest_loop.inl"
#include "cpu/isa.h"
#include "cpu/multiply_loop.inl"

namespace convinit {
namespace CONVINIT_LANES {

CONVINIT_HD const Parameters<float>& parameters(const Distribution& d, float) { return d.single; }
CONVINIT_HD const Parameters<double>& parameters(const Distribution& d, double) { return d.real; }

template <class Out>
constexpr int64_t kGroup = kBlocks * Computed<Out>::kPerBlock;

// Writes values to neighbouring memory.
template <class Out>
class Writer {
 public:
  CONVINIT_HD_METHOD explicit Writer(void* out) : out_(static_cast<Out*>(out)) {}

  template <class Values>
  CONVINIT_HD_METHOD bool whole(const Values& values) {
    store(out_, values.even, values.odd);
    out_ += kGroup<Out>;
    return true;
  }
  template <class Values>
  CONVINIT_HD_METHOD bool part(const Values& values, int64_t skip, int64_t count) {
    Out group[kGroup<Out>];
    store(group, values.even, values.odd);
    memcpy(out_, group + skip, count * sizeof(Out));
    out_ += count;
    return true;
  }

 private:
  Out* out_;
};

// As many bytes as some vectors have.
CONVINIT_HD bool are_same(const char* one, const char* other, int64_t num_bytes) {
#ifdef CONVINIT_SCALAR_LANES
  return memcmp(one, other, num_bytes) == 0;
#else
  constexpr int64_t kLanes = sizeof(vector::U64) / sizeof(uint64_t);
  vector::U64 differing = {};
  CONVINIT_UNROLL
  for (int64_t at = 0; at < num_bytes; at += sizeof differing) differing |= load(one + at) ^ load(other + at);
  uint64_t any = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) any |= differing[lane];
  return any == 0;
#endif
}

// Holds values against neighbouring memory, and stops at the first group that is not the same.
template <class Out>
class Matcher {
 public:
  CONVINIT_HD_METHOD explicit Matcher(const void* memory) : memory_(static_cast<const Out*>(memory)) {}

  CONVINIT_HD_METHOD int64_t num_same() const { return num_same_; }

  template <class Values>
  CONVINIT_HD_METHOD bool whole(const Values& values) {
    alignas(64) Out group[kGroup<Out>];
    const char* here = reinterpret_cast<const char*>(memory_ + num_same_);
    for (size_t at = 0; at < sizeof group; at += kLineBytes) __builtin_prefetch(here + kAheadBytes + at);
    store(group, values.even, values.odd);
    return add(are_same(reinterpret_cast<const char*>(group), here, sizeof group), kGroup<Out>);
  }
  template <class Values>
  CONVINIT_HD_METHOD bool part(const Values& values, int64_t skip, int64_t count) {
    Out group[kGroup<Out>];
    store(group, values.even, values.odd);
    return add(memcmp(group + skip, memory_ + num_same_, count * sizeof(Out)) == 0, count);
  }

 private:
  CONVINIT_HD_METHOD bool add(bool is_same, int64_t count) {
    if (is_same) num_same_ += count;
    return is_same;
  }

  const Out* memory_;
  int64_t num_same_ = 0;
};

// A part of the values of a run's first or last group goes to the sink. Called, and the formulas once for all
// types: a copy of them is as long as a loop.
template <class Sampler, class Real, class Words, class Values>
static __attribute__((noinline)) void make_values(Sampler sampler, const Parameters<Real>& p,
                                                  const Words& words, Values* values) {
  *values = values_of(sampler, p, words);
}
template <class Sampler, class Real, class Words, class Sink>
CONVINIT_HD bool visit_part(Sampler sampler, const Parameters<Real>& p, Words words, int64_t skip,
                            int64_t count, Sink* sink) {
  decltype(values_of(sampler, p, words)) values;
  make_values(sampler, p, words, &values);
  return sink->part(values, skip, count);
}

// A run within 2^32 blocks of the same round keys; `skip` elements of its first block come before it. Goes on
// as long as the sink says so. The words of the next group come before the values of this one: each is a long
// chain of operations, and a processor works at both at once.
template <class Sampler, class Out, class Sink>
CONVINIT_HD bool visit_run(const Parameters<typename Computed<Out>::Real>& p, const RoundKeys& keys,
                           uint32_t first_block, int64_t skip, int64_t count, Sink* sink) {
  const Sampler sampler = prepared(Sampler(), p);
  Word block_low = counters(first_block);
  Product product = first_product(block_low);
  auto words = words_of(sampler, p, keys, product);
  const int64_t head = kGroup<Out> - skip;
  if (skip > 0 && count > head) {
    if (!visit_part(sampler, p, words, skip, head, sink)) return false;
    product = next_product(&block_low, product, kMultiplier0);
    words = words_of(sampler, p, keys, product);
    skip = 0;
    count -= head;
  }
  for (; count > kGroup<Out>; count -= kGroup<Out>) {
    product = next_product(&block_low, product, kMultiplier0);
    const auto next = words_of(sampler, p, keys, product);
    if (!sink->whole(values_of(sampler, p, words))) return false;
    words = next;
  }
  return visit_part(sampler, p, words, skip, count, sink);
}

template <class Sampler, class Out, class Sink>
CONVINIT_HD void visit(const Distribution& distribution, const Key& key, int64_t start, int64_t count,
                       Sink* sink) {
  constexpr int64_t kPerBlock = Computed<Out>::kPerBlock;
  constexpr int64_t kBlocksPerRoundKeys = int64_t{1} << 32;
  const Parameters<typename Computed<Out>::Real> p =
      parameters(distribution, typename Computed<Out>::Real(0));
  while (count > 0) {
    const int64_t block = start / kPerBlock;
    const int64_t end = (block / kBlocksPerRoundKeys + 1) * kBlocksPerRoundKeys * kPerBlock;
    const int64_t length = count < end - start ? count : end - start;
    const RoundKeys keys = make_round_keys(key, static_cast<uint32_t>(block / kBlocksPerRoundKeys));
    if (!visit_run<Sampler, Out>(p, keys, static_cast<uint32_t>(block), start % kPerBlock, length, sink))
      return;
    start += length;
    count -= length;
  }
}

template <class Sampler, class Out>
static void generate(const Distribution& distribution, const Key& key, int64_t start, int64_t count,
                     void* out) {
  Writer<Out> writer(out);
  visit<Sampler, Out>(distribution, key, start, count, &writer);
}

#ifdef CONVINIT_WITHOUT_MATCH
template <class Sampler, class Out>
constexpr MatchFunction match = nullptr;
#else
template <class Sampler, class Out>
static int64_t match(const Distribution& distribution, const Key& key, int64_t start, int64_t count,
                     const void* memory) {
  Matcher<Out> matcher(memory);
  visit<Sampler, Out>(distribution, key, start, count, &matcher);
  return matcher.num_same();
}
#endif

template <class Out>
CONVINIT_HD Out constant_of(const Distribution& distribution) {
  Out value;
  convert(parameters(distribution, typename Computed<Out>::Real(0)).value, &value);
  return value;
}

template <class Out>
static void generate_constant(const Distribution& distribution, const Key&, int64_t, int64_t count,
                              void* out) {
  const Out value = constant_of<Out>(distribution);
  Out* to = static_cast<Out*>(out);
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

template <class Out>
static int64_t match_constant(const Distribution& distribution, const Key&, int64_t, int64_t count,
                              const void* memory) {
  const Out value = constant_of<Out>(distribution);
  Out group[kGroup<Out>];
  for (Out& each : group) each = value;
  const Out* const first = static_cast<const Out*>(memory);
  int64_t num_same = 0;
  for (int64_t length; num_same < count; num_same += length) {
    length = count - num_same < kGroup<Out> ? count - num_same : kGroup<Out>;
    if (memcmp(group, first + num_same, length * sizeof(Out)) != 0) break;
  }
  return num_same;
}

template <class Sampler, class Out>
static constexpr Functions functions() {
  return {generate<Sampler, Out>, match<Sampler, Out>};
}
// Values that take long to make: a buffer between them and the memory costs next to nothing.
template <class Sampler, class Out>
static constexpr Functions functions_without_match() {
  return {generate<Sampler, Out>, nullptr};
}
template <class Out>
static constexpr Functions normals() {
  if constexpr (sizeof(Out) == sizeof(double))
    return functions_without_match<Normal, Out>();
  else
    return functions<Normal, Out>();
}
template <class Out>
static constexpr Functions constants() {
  return {generate_constant<Out>, match_constant<Out>};
}

// In the order of Kind; the types in that of DType.
template <class... Out>
static constexpr FunctionTable table_of(const char* isa) {
  return {isa,
          digest,
          multiply,
          {{constants<Out>()...},
           {functions<Uniform, Out>()...},
           {normals<Out>()...},
           {functions_without_match<TruncatedNormal, Out>()...}}};
}
static constexpr FunctionTable make_table(const char* isa) {
  return table_of<float, double, Half, BFloat16, Float8E4M3, Float8E5M2>(isa);
}

}  // namespace CONVINIT_LANES
}  // namespace convinit
