// A block of the digest's or the comparing kernel on the host: a step of all its threads, one after the
// other, then the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/compare_body.h"
#include "cuda/digest_body.h"

namespace convinit {

// Own is what each thread keeps for itself.
template <class Own>
class BlockOnCpu {
 public:
  // Threads in descending order find out a step that needs what another thread does in it.
  BlockOnCpu(uint32_t num_threads, const Own& own, bool descending)
      : own_(num_threads, own), descending_(descending) {}

  uint32_t num_threads() const { return static_cast<uint32_t>(own_.size()); }

  template <class Step>
  void each(Step step) {
    for (uint32_t i = 0; i < num_threads(); ++i) {
      const uint32_t thread = descending_ ? num_threads() - 1 - i : i;
      step(cuda::Thread{thread, num_threads()}, &own_[thread]);
    }
  }

  void add(uint64_t* to, uint64_t value) { *to += value; }
  void lower(uint64_t* to, uint64_t value) { *to = std::min(*to, value); }

 private:
  std::vector<Own> own_;
  bool descending_;
};

// All blocks of a grid. Shared memory holds anything when a block begins.
inline void digest_on_grid(const void* image, uint32_t num_blocks, uint32_t num_threads, uint64_t* rows) {
  cuda::Shared shared;
  for (uint32_t block = 0; block < num_blocks; ++block) {
    std::memset(&shared, 0xa5, sizeof shared);
    BlockOnCpu<cuda::Sums> threads(num_threads, cuda::Sums{}, block % 2 == 1);
    cuda::digest_body(image, block, num_blocks, &threads, &shared, rows);
  }
}

// The same of the comparing kernel, rows cleared.
inline void compare_on_grid(const void* image, uint32_t num_blocks, uint32_t num_threads, uint64_t* rows) {
  cuda::Different whole;
  for (uint32_t block = 0; block < num_blocks; ++block) {
    std::memset(&whole, 0xa5, sizeof whole);
    BlockOnCpu<cuda::Different> threads(num_threads, cuda::nothing(), block % 2 == 1);
    cuda::compare_body(image, block, num_blocks, &threads, &whole, rows);
  }
}

}  // namespace convinit
