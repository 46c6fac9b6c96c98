// How a list of tensors on the current CUDA device differs from what a fill would leave in them. Knows
// nothing of torch, and includes no CUDA header, as fill.h.
#pragma once

#include "core/fill_task.h"
#include "cuda/launch.h"

namespace convinit {
namespace cuda {

// Device memory: for each row the number of elements that differ, and the linear index of the first, -1 where
// there is none.
struct DifferenceRows {
  int64_t* numbers;
  int64_t num_rows;
};

// A list as one block of bytes, as fill.h's pack, which it takes no more room than; `rows` has each task's.
// The tasks' `data` is only read.
int64_t pack_compare(const FillTask* tasks, const int64_t* rows, int64_t num_tasks, void* image);

// As fill.h's launch. Writes all rows.
const char* launch_compare(const void* image, int64_t num_bytes, const void* device_image,
                           const DifferenceRows& rows, Stream stream);

}  // namespace cuda
}  // namespace convinit
