// fill() of engine.h.
#include "cpu/engine.h"

#include <atomic>

#include "core/dtype.h"
#include "cpu/isa.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace convinit {
namespace {

std::atomic<const char*> latest_isa{""};

#if defined(__linux__) && defined(MADV_HUGEPAGE)
// Whether there is memory behind the page before that address: it was touched then.
bool is_touched(uintptr_t end) {
  constexpr uintptr_t kLargestPage = 64 * 1024;
  unsigned char is_there = 0;
  return mincore(reinterpret_cast<void*>(end - kLargestPage), 1, &is_there) == 0 && (is_there & 1) != 0;
}
#endif

// Asks for huge pages where a large tensor is touched for the first time: that is several times faster. Not
// where it was before: advice waits as long as another thread unmaps memory, the question above does not.
void advise_huge_pages(const FillTask& task) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHugePage = 2 * 1024 * 1024;
  int64_t elements = 1;
  for (int32_t d = 0; d < task.num_dims; ++d) elements += (task.dims[d].size - 1) * task.dims[d].data_stride;
  const auto begin = reinterpret_cast<uintptr_t>(task.data);
  const auto first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const auto last = (begin + elements * scalar::item_size(task.dtype)) / kHugePage * kHugePage;
  // Advice only: where the kernel has none of it, the fill is right all the same.
  if (last > first && !is_touched(last))
    (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)task;
#endif
}

void fill_unit(const Tiling& tiling, const FillTask& task, GenerateFunction generate, int64_t number,
               char* buffer) {
  const Unit unit = locate(tiling, number);
  const int64_t size = tiling.tensor.item_size;
  if (tiling.in_place) {
    generate(task.distribution, task.key, unit.index, unit.columns,
             static_cast<char*>(task.data) + unit.data * size);
    return;
  }
  for_each_run(unit, [&](int64_t index, int64_t count, int64_t place) {
    generate(task.distribution, task.key, index, count, buffer + place * size);
  });
  scatter(tiling, unit, buffer, task.data);
}

// A single small tensor, without the bookkeeping that would take longer than the fill.
bool fill_if_small(const FillTask& task, const FunctionTable& table) {
  const Tiling tiling = make_tiling(strided(task));
  if (!tiling.in_place || tiling.num_units > 1 || tiling.unit_bytes > kSmallestPiece) return false;
  fill_unit(tiling, task, functions_of(table, task).generate, 0, nullptr);
  return true;
}

}  // namespace

void fill(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers) {
  const FunctionTable& table = current_table();
  latest_isa.store(table.isa, std::memory_order_relaxed);
  if (num_tasks == 1 && fill_if_small(tasks[0], table)) return;
  const WorkQueue queue(tilings_of(tasks, num_tasks), num_threads);
  for (int64_t t = 0; t < num_tasks; ++t) advise_huge_pages(tasks[t]);
  queue.run(run_workers, [&](size_t t, int64_t first, int64_t last, char* buffer) {
    const GenerateFunction generate = functions_of(table, tasks[t]).generate;
    for (int64_t number = first; number < last; ++number)
      fill_unit(queue.tiling(t), tasks[t], generate, number, buffer);
  });
}

const char* last_isa() { return latest_isa.load(); }

}  // namespace convinit
