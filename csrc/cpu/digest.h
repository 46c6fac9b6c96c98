// The sums of docs/fingerprint.md, section 4, of a list of tensors on the CPU. Knows nothing of torch.
#pragma once

#include "core/digest.h"
#include "cpu/schedule.h"

namespace convinit {

struct DigestTask {
  const void* data;
  Strided tensor;
  Key key;
};

// Writes kSums sums for each task. They do not depend on the split over threads.
void digest(const DigestTask* tasks, int64_t num_tasks, int64_t num_threads, const RunWorkers& run_workers,
            uint64_t* sums);

}  // namespace convinit
