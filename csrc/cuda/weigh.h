// What the ways to digest a tensor share: a block's shared memory, and products of words and weights.
#pragma once

#include "core/weights.h"
#include "cuda/digest_list.h"

namespace convinit {
namespace cuda {

constexpr uint32_t kMostThreads = 256;
constexpr uint32_t kJoined = 16;  // numbers that are left of all threads' after the first of two steps
constexpr int kChunkShift = 12;
static_assert(int64_t{1} << kChunkShift == kChunkBytes, "a shift divides by it");

struct Sums {
  uint64_t of[kSums];
};

// A block's shared memory.
struct Shared {
  alignas(16) uint32_t table[kTableWords];
  alignas(16) scalar::Factors factors[kMostChunks];
  uint64_t own[kSums][kMostThreads];
  uint64_t joined[kSums][kJoined];
};

CONVINIT_DEVICE int64_t chunk_of(int64_t byte) { return byte >> kChunkShift; }  // rounds down

CONVINIT_DEVICE uint64_t multiply_add(uint32_t a, uint32_t b, uint64_t to) {
#if defined(__CUDA_ARCH__)
  // Said outright: nvcc would widen the weights ahead of its loops, and add their upper halves' products too.
  asm("mad.wide.u32 %0, %1, %2, %0;" : "+l"(to) : "r"(a), "r"(b));
  return to;
#else
  return to + static_cast<uint64_t>(a) * b;
#endif
}

}  // namespace cuda
}  // namespace convinit
