// See fill.h.
#include "cpu/fill.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/float_environment.h"
#include "cpu/isa.h"
#include "cpu/tiling.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace convinit {
namespace {

constexpr int64_t kSmallestPiece = 256 * 1024;  // bytes; below it a second thread costs more than it brings
constexpr int64_t kLargestPiece = 8 * 1024 * 1024;  // several huge pages, so that threads seldom share one
constexpr int64_t kPiecesPerThread = 32;  // so that a thread that was held up does not hold up the rest

std::atomic<const char*> latest_isa{""};

// Asks for huge pages where a large tensor may be touched for the first time: first touch is several times
// faster.
void advise_huge_pages(const FillTask& task) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHugePage = 2 * 1024 * 1024;
  int64_t elements = 1;
  for (int32_t d = 0; d < task.num_dims; ++d) elements += (task.dims[d].size - 1) * task.dims[d].data_stride;
  const auto begin = reinterpret_cast<uintptr_t>(task.data);
  const auto first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const auto last = (begin + elements * item_size(task.dtype)) / kHugePage * kHugePage;
  // Advice only: where the kernel has none of it, the fill is right all the same.
  if (last > first) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)task;
#endif
}

GenerateFunction generator_of(const GenerateTable& table, const FillTask& task) {
  return table.functions[static_cast<int>(task.distribution.kind)][static_cast<int>(task.dtype)];
}

// All units of all tasks laid end to end by their nominal bytes, and cut into pieces of equal size.
class Schedule {
 public:
  Schedule(const FillTask* tasks, int64_t num_tasks, int64_t num_threads) {
    int64_t bytes = 0;
    tilings_.reserve(num_tasks);
    for (int64_t t = 0; t < num_tasks; ++t) {
      tilings_.push_back(make_tiling(tasks[t]));
      bytes += tilings_.back().num_units * tilings_.back().unit_bytes;
      ends_.push_back(bytes);
    }
    piece_bytes_ = std::clamp(bytes / (num_threads * kPiecesPerThread), kSmallestPiece, kLargestPiece);
    num_pieces_ = (bytes + piece_bytes_ - 1) / piece_bytes_;
  }

  int64_t num_pieces() const { return num_pieces_; }

  // The units that start inside the piece.
  void fill_piece(const GenerateTable& table, int64_t piece, void* buffer) const {
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
      const GenerateFunction generate = generator_of(table, *tiling.task);
      for (int64_t unit = first_at(begin); unit < first_at(end); ++unit)
        fill_unit(tiling, generate, unit, buffer);
    }
  }

 private:
  std::vector<Tiling> tilings_;
  std::vector<int64_t> ends_;  // of each task's units, in bytes from the first
  int64_t piece_bytes_ = 0;
  int64_t num_pieces_ = 0;
};

// A single small tensor, without the bookkeeping that would take longer than the fill.
bool fill_if_small(const FillTask& task, const GenerateTable& table) {
  const Tiling tiling = make_tiling(task);
  if (!tiling.in_place || tiling.num_units > 1 || tiling.unit_bytes > kSmallestPiece) return false;
  fill_unit(tiling, generator_of(table, task), 0, nullptr);
  return true;
}

}  // namespace

void fill(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers) {
  const GenerateTable& table = current_table();
  latest_isa.store(table.isa, std::memory_order_relaxed);
  if (num_tasks == 1 && fill_if_small(tasks[0], table)) return;
  const Schedule schedule(tasks, num_tasks, num_threads);
  for (int64_t t = 0; t < num_tasks; ++t) advise_huge_pages(tasks[t]);
  std::atomic<int64_t> next{0};
  run_workers(std::min(num_threads, schedule.num_pieces()), [&] {
    const DefaultFloatEnvironment environment;
    alignas(64) char buffer[kTileBytes];
    for (int64_t piece = next++; piece < schedule.num_pieces(); piece = next++) {
      schedule.fill_piece(table, piece, buffer);
    }
  });
}

int64_t item_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2:
      break;
  }
  return 1;
}

const char* last_isa() { return latest_isa.load(); }

}  // namespace convinit
