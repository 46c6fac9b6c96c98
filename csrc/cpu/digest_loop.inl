// A digest's inner loop: words of 32 bits times the table's weights, into four sums of 64 bits. Included by
// fill_loop.inl.

#include "core/digest.h"
#include "cpu/isa.h"

namespace convinit {
namespace CONVINIT_LANES {

// The words from number `first` on.
CONVINIT_HD void digest_each(const uint32_t* weights, const char* words, int64_t first, int64_t count,
                             uint64_t* sums) {
  for (int64_t i = first; i < count; ++i) {
    uint32_t word;
    memcpy(&word, words + 4 * i, sizeof word);  // it may lie anywhere
    for (int a = 0; a < kSums; ++a) sums[a] += static_cast<uint64_t>(word) * weights[i + a * kTableShift];
  }
}

#ifdef CONVINIT_SCALAR_LANES
static void digest(const uint32_t* weights, const char* words, int64_t count, Ahead* ahead, uint64_t* sums) {
  ahead->prefetch(count / Ahead::kLineWords);
  digest_each(weights, words, 0, count, sums);
}
#else
static void digest(const uint32_t* weights, const char* words, int64_t count, Ahead* ahead, uint64_t* sums) {
  constexpr int64_t kWords = sizeof(vector::U64) / sizeof(uint32_t);
  constexpr int64_t kLines =
      2 * kWords > Ahead::kLineWords ? 2 * kWords / Ahead::kLineWords : 1;  // of a step
  vector::U64 total[kSums] = {};
  int64_t done = 0;
  for (; done + 2 * kWords <= count; done += 2 * kWords) {
    if (done % Ahead::kLineWords == 0) ahead->prefetch(kLines);
    const vector::U64 first = load(words + 4 * done), second = load(words + 4 * (done + kWords));
#ifdef CONVINIT_KEEPS_WEIGHTS
    static_assert(kWords == kTableShift, "the second vector's weights are the first one's for the next sum");
    vector::U64 own = load(weights + done), next = load(weights + done + kNextWeights);
    CONVINIT_UNROLL
    for (int a = 0; a < kSums; ++a) {
      const uint32_t* later = weights + done + (a + 1) * kTableShift;
      const vector::U64 second_own = vector::kept(load(later));
      const vector::U64 second_next = vector::kept(load(later + kNextWeights));
      total[a] += products(first, own, next) + products(second, second_own, second_next);
      own = second_own;
      next = second_next;
    }
#else
    CONVINIT_UNROLL
    for (int a = 0; a < kSums; ++a) {
      const uint32_t* own = weights + done + a * kTableShift;
      total[a] += products(first, own) + products(second, own + kWords);
    }
#endif
  }
  for (int a = 0; a < kSums; ++a) {
    for (size_t lane = 0; lane < sizeof(vector::U64) / sizeof(uint64_t); ++lane) sums[a] += total[a][lane];
  }
  digest_each(weights, words, done, count, sums);
}
#endif

}  // namespace CONVINIT_LANES
}  // namespace convinit
