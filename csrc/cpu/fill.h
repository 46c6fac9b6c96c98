// Fills a list of tensors on the CPU. Knows nothing of torch.
#pragma once

#include "core/fill_task.h"
#include "cpu/schedule.h"

namespace convinit {

// Work is shared out piece by piece, by bytes whatever tensor they belong to, over at most `num_threads`
// workers. Values do not depend on the split. The calling thread is in the default float environment
// (float_environment.h).
void fill(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers);

// What is in memory, held against what fill() would write there, bit for bit.
struct Difference {
  int64_t count;  // of elements
  int64_t first;  // linear index of the first of them, -1 if there is none
};
void compare(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers,
             Difference* differences);

// Name of the instruction set that the latest fill used, empty before the first.
const char* last_isa();

}  // namespace convinit
