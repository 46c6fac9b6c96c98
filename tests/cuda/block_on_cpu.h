// A block of the digest's kernel on the host: a step of all its threads, one after the other, then the next.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/digest_body.h"

namespace convinit {

class BlockOnCpu {
 public:
  // Threads in descending order find out a step that needs what another thread does in it.
  BlockOnCpu(uint32_t num_threads, bool descending) : sums_(num_threads), descending_(descending) {}

  template <class Step>
  void each(Step step) {
    const auto num_threads = static_cast<uint32_t>(sums_.size());
    for (uint32_t i = 0; i < num_threads; ++i) {
      const uint32_t thread = descending_ ? num_threads - 1 - i : i;
      step(cuda::Thread{thread, num_threads}, &sums_[thread]);
    }
  }

  void add(uint64_t* to, uint64_t value) { *to += value; }

 private:
  std::vector<cuda::Sums> sums_;
  bool descending_;
};

// All blocks of a grid. Shared memory holds anything when a block begins.
inline void digest_on_grid(const void* image, uint32_t num_blocks, uint32_t num_threads, uint64_t* rows) {
  cuda::Shared shared;
  for (uint32_t block = 0; block < num_blocks; ++block) {
    std::memset(&shared, 0xa5, sizeof shared);
    BlockOnCpu threads(num_threads, block % 2 == 1);
    cuda::digest_body(image, block, num_blocks, &threads, &shared, rows);
  }
}

}  // namespace convinit
