// The numbers of docs/fingerprint.md, sections 3 and 4: a tensor's digest is four sums of its words, times a
// table's weights and each chunk's factors.
#pragma once

#include "core/philox.h"

namespace convinit {

constexpr int kSums = 4;
constexpr int64_t kChunkWords = 1024;
constexpr int64_t kChunkBytes = kChunkWords * 4;
constexpr int kTableShift = 16;  // from one sum's weights to the next one's
constexpr int kTableWords = kChunkWords + kTableShift * (kSums - 1);

#ifdef CONVINIT_SCALAR_LANES
namespace scalar {

CONVINIT_HD Words block_of(const Key& key, uint64_t block) {
  return philox(make_round_keys(key, high_half(block)), counters(low_half(block)));
}

// Four neighbouring words of the table. Its key is BLAKE2b of nothing, as the document has it.
CONVINIT_HD Words table_block(int block) {
  const Key key{0x7d4f451e35c43d57u, 0x647ca9c6273ee652u};
  return block_of(key, static_cast<uint64_t>(block));
}

struct Factors {
  uint64_t of[kSums];
};

CONVINIT_HD Factors factors_of(const Key& key, int64_t chunk) {
  const Words first = block_of(key, 2 * static_cast<uint64_t>(chunk));
  const Words second = block_of(key, 2 * static_cast<uint64_t>(chunk) + 1);
  return {{join(first.w0, first.w1) | 1, join(first.w2, first.w3) | 1, join(second.w0, second.w1) | 1,
           join(second.w2, second.w3) | 1}};
}

}  // namespace scalar
#endif
}  // namespace convinit
