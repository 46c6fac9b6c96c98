// Shares out the units of a list of tensors over threads. Knows nothing of torch: the threads are the
// caller's.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/tiling.h"

namespace convinit {

// Calls its second argument from up to `num_workers` threads at once, each one time, and waits for them.
using RunWorkers = std::function<void(int64_t num_workers, const std::function<void()>& worker)>;

constexpr int64_t kSmallestPiece = 256 * 1024;  // bytes; below it a second thread costs more than it brings

// A thread's own: a tile, and a stretch of other values beside it.
constexpr int64_t kStretchBytes = 8 * 1024;
constexpr int64_t kBufferBytes = kLargestTileBytes + kStretchBytes;

// The units of one tensor: number `first` and those up to `last`. The buffer is of kBufferBytes; the thread
// is in the default float environment.
using DoUnits = std::function<void(size_t tensor, int64_t first, int64_t last, char* buffer)>;

// All units of all tensors laid end to end by their nominal bytes, and cut into pieces of equal size.
class WorkQueue {
 public:
  WorkQueue(std::vector<Tiling> tilings, int64_t num_threads);

  const Tiling& tiling(size_t tensor) const { return tilings_[tensor]; }

  // Calls do_units from the workers until every unit is done, each time for neighbouring units of one tensor.
  void run(const RunWorkers& run_workers, const DoUnits& do_units) const;

 private:
  // The units that start inside the piece.
  void do_piece(int64_t piece, char* buffer, const DoUnits& do_units) const;

  std::vector<Tiling> tilings_;
  std::vector<int64_t> ends_;  // of each tensor's units, in bytes from the first
  int64_t num_threads_;
  int64_t piece_bytes_ = 0;
  int64_t num_pieces_ = 0;
};

}  // namespace convinit
