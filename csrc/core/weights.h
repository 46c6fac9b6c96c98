// The numbers of docs/fingerprint.md, section 3: the table of weights and each chunk's factors.
#pragma once

#include "core/digest.h"
#include "core/philox.h"

namespace convinit {

namespace scalar {

CONVINIT_HD Words block_of(const Key& key, uint64_t block) {
  return philox(make_schedule(key, high_half(block)), counters(low_half(block)));
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
}  // namespace convinit
