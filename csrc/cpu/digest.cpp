// digest() of engine.h.
#include "core/digest.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "cpu/ahead.h"
#include "cpu/engine.h"
#include "cpu/isa.h"

namespace convinit {
namespace {

// The weights twice, see DigestFunction.
struct alignas(64) Table {
  uint32_t words[kNextWeights + kTableWords];
};
static_assert(kNextWeights >= kTableWords && kNextWeights % 16 == 0,
              "both times from a line of the cache on");

const uint32_t* table() {
  static const Table made = [] {
    Table table{};
    for (int block = 0; block < kTableWords / 4; ++block) {
      const scalar::Words four = scalar::table_block(block);
      const uint32_t words[] = {four.w0, four.w1, four.w2, four.w3};
      std::copy_n(words, 4, table.words + 4 * block);
    }
    std::copy_n(table.words + 1, kTableWords - 1, table.words + kNextWeights);
    return table;
  }();
  return made.words;
}

// The four sums of a part of one tensor.
class Digest {
 public:
  Digest(DigestFunction digest, const Key& key, int64_t item_size)
      : digest_(digest), key_(key), item_size_(item_size) {}

  const uint64_t* sums() const { return sums_; }

  // Neighbouring elements from linear index `index` on, and asks meanwhile for as many bytes of what comes
  // next.
  void add(int64_t index, int64_t count, const char* data, Ahead* next) {
    int64_t at = index * item_size_;
    const int64_t end = at + count * item_size_;
    while (at < end) {
      const int64_t length = std::min(end, (at / kChunkBytes + 1) * kChunkBytes) - at;
      uint64_t inner[kSums] = {};
      add_bytes(at % kChunkBytes, length, data, next, inner);
      const scalar::Factors& factors = factors_of(at / kChunkBytes);
      for (int a = 0; a < kSums; ++a) sums_[a] += factors.of[a] * inner[a];
      at += length;
      data += length;
    }
  }

 private:
  // Bytes of a chunk, from byte `offset` of it on. Words of which they are a part only are filled up with
  // zeros: their other bytes belong to other elements, and the sums are linear.
  void add_bytes(int64_t offset, int64_t length, const char* data, Ahead* next, uint64_t* sums) const {
    const uint32_t* weights = table() + offset / 4;
    if (offset % 4 == 0 && length % 4 == 0) return digest_(weights, data, length / 4, next, sums);
    char padded[kChunkBytes + 8];
    const int64_t before = offset % 4, num_words = (before + length + 3) / 4;
    std::memset(padded, 0, 4);
    std::memset(padded + 4 * (num_words - 1), 0, 4);
    std::memcpy(padded + before, data, static_cast<size_t>(length));
    digest_(weights, padded, num_words, next, sums);
  }

  // Most runs go on where the one before ended.
  const scalar::Factors& factors_of(int64_t chunk) {
    if (chunk != chunk_) {
      factors_ = scalar::factors_of(key_, chunk);
      chunk_ = chunk;
    }
    return factors_;
  }

  DigestFunction digest_;
  Key key_;
  int64_t item_size_;
  int64_t chunk_ = -1;
  scalar::Factors factors_{};
  uint64_t sums_[kSums] = {};
};

}  // namespace

void digest(const DigestTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers,
            uint64_t* sums) {
  std::fill_n(sums, num_tasks * kSums, uint64_t{0});
  const DigestFunction function = current_table().digest;
  std::mutex mutex;
  const WorkQueue queue(tilings_of(tasks, num_tasks), num_threads);
  queue.run(run_workers, [&](size_t t, int64_t first, int64_t last, char* buffer) {
    Digest part(function, tasks[t].key, tasks[t].item_size);
    for (int64_t number = first; number < last; ++number) {
      read_unit(queue.tiling(t), number, tasks[t].data, buffer,
                [&](int64_t index, int64_t count, const char* data, Ahead* next) {
                  part.add(index, count, data, next);
                });
    }
    const std::lock_guard<std::mutex> lock(mutex);
    for (int a = 0; a < kSums; ++a) sums[t * kSums + a] += part.sums()[a];
  });
}

}  // namespace convinit
