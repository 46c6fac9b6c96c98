// What the digest's kernel is told of a tensor. cuda/pack_digest.h writes it, on the host.
#pragma once

#include "core/digest.h"
#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

constexpr int64_t kVectorWords = 4;  // of one load
constexpr int64_t kLoadBytes = kVectorWords * 4;
constexpr int64_t kMostChunks = 64;  // in a unit

// A run's elements are bytes, and its items are the chunks that it has bytes of. Elements of segments have
// `item_size` bytes.
struct DigestTask : Elements {
  int32_t item_size;
  // A power of two up to kLoadBytes: a vector of a run lies at a multiple of it in memory.
  int32_t alignment;
  const char* data;
  Key key;
  int64_t row;  // of the sums
};

}  // namespace cuda
}  // namespace convinit
