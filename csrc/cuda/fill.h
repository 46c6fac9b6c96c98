// Fills a list of tensors on the current CUDA device, on a stream. Knows nothing of torch, and includes no
// CUDA header.
#pragma once

#include "core/fill_task.h"
#include "cuda/launch.h"

namespace convinit {
namespace cuda {

// A task list as one block of bytes, position independent, copied to the device as it is. The tasks' `data`
// are addresses on the device. This is the most that the block can take.
int64_t image_bytes(const FillTask* tasks, int64_t num_tasks);
// To host memory, 16-byte aligned, pinned or not. Returns how many bytes it took.
int64_t pack(const FillTask* tasks, int64_t num_tasks, void* image);

// The list travels as a kernel parameter where `device_image` is null, num_bytes <= kParameterBytes then;
// else it is already in device memory, its upload ordered before this on the stream, and `image` is the
// host's copy.
const char* launch(const void* image, int64_t num_bytes, const void* device_image, Stream stream);

}  // namespace cuda
}  // namespace convinit
