// Fills, compares and digests lists of tensors on the CPU. Knows nothing of torch.
//
// Work is shared out piece by piece, by bytes whatever tensor they belong to, over at most `num_threads`
// workers. Results do not depend on the split.
#pragma once

#include "core/task.h"
#include "cpu/work_queue.h"

namespace convinit {

// The calling thread is in the default float environment (float_environment.h).
void fill(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers);

// Name of the instruction set that the latest fill used, empty before the first.
const char* last_isa();

// What is in memory, held against what fill() would write there, bit for bit.
struct Difference {
  int64_t count;  // of elements
  int64_t first;  // linear index of the first of them, -1 if there is none
};
void compare(const FillTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers,
             Difference* differences);

// Writes the kSums sums of docs/fingerprint.md, section 4, for each task.
void digest(const DigestTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers,
            uint64_t* sums);

}  // namespace convinit
