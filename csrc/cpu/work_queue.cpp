// See work_queue.h.
#include "cpu/work_queue.h"

#include <algorithm>
#include <atomic>

#include "cpu/float_environment.h"

namespace convinit {
namespace {

constexpr int64_t kLargestPiece = 8 * 1024 * 1024;  // several huge pages, so that threads seldom share one
constexpr int64_t kPiecesPerThread = 32;  // so that a thread that was held up does not hold up the rest

}  // namespace

WorkQueue::WorkQueue(std::vector<Tiling> tilings, int64_t num_threads)
    : tilings_(std::move(tilings)), num_threads_(num_threads) {
  int64_t bytes = 0;
  ends_.reserve(tilings_.size());
  for (const Tiling& tiling : tilings_) ends_.push_back(bytes += tiling.num_units * tiling.unit_bytes);
  piece_bytes_ = std::clamp(bytes / (num_threads * kPiecesPerThread), kSmallestPiece, kLargestPiece);
  num_pieces_ = (bytes + piece_bytes_ - 1) / piece_bytes_;
}

void WorkQueue::run(const RunWorkers& run_workers, const DoUnits& do_units) const {
  std::atomic<int64_t> next{0};
  run_workers(std::min(num_threads_, num_pieces_), [&] {
    const DefaultFloatEnvironment environment;
    alignas(64) char buffer[kBufferBytes];
    for (int64_t piece = next++; piece < num_pieces_; piece = next++) do_piece(piece, buffer, do_units);
  });
}

void WorkQueue::do_piece(int64_t piece, char* buffer, const DoUnits& do_units) const {
  const int64_t begin = piece * piece_bytes_, end = begin + piece_bytes_;
  auto t = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin());
  for (; t < tilings_.size(); ++t) {
    const Tiling& tiling = tilings_[t];
    const int64_t start = t > 0 ? ends_[t - 1] : 0;
    if (start >= end) return;
    const auto first_at = [&](int64_t byte) {
      return byte <= start
                 ? 0
                 : std::min((byte - start + tiling.unit_bytes - 1) / tiling.unit_bytes, tiling.num_units);
    };
    do_units(t, first_at(begin), first_at(end), buffer);
  }
}

}  // namespace convinit
