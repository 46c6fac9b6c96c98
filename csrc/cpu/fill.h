// Fills a list of tensors on the CPU. Knows nothing of torch: the threads are the caller's.
#pragma once

#include <functional>

#include "core/fill_task.h"

namespace convinit {

// Calls its second argument from up to `num_workers` threads at once, each one time, and waits for them.
using RunWorkers = std::function<void(int64_t num_workers, const std::function<void()>& worker)>;

// Work is shared out piece by piece, by bytes whatever tensor they belong to, over at most `num_threads`
// workers. Values do not depend on the split. The calling thread is in the default float environment
// (float_environment.h).
void fill(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers);

// Name of the instruction set that the latest fill used, empty before the first.
const char* last_isa();

int64_t item_size(DType dtype);

}  // namespace convinit
