// Fills a list of tensors on the current CUDA device, on a stream. Knows nothing of torch, and includes no
// CUDA header, so that what calls it compiles anywhere. Functions that return const char* return nullptr, or
// CUDA's description of what failed.
#pragma once

#include "core/fill_task.h"

namespace convinit {
namespace cuda {

using Stream = void*;  // a cudaStream_t

// The largest image that travels as a kernel parameter: every device and toolkit takes 4 KiB of those.
constexpr int64_t kParameterBytes = 3840;

// A task list as one block of bytes, position independent, copied to the device as it is. The tasks' `data`
// are addresses on the device. This is the most that the block can take.
int64_t image_bytes(const FillTask* tasks, int64_t num_tasks);
// To host memory, 16-byte aligned, pinned or not. Returns how many bytes it took.
int64_t pack(const FillTask* tasks, int64_t num_tasks, void* image);

// num_bytes <= kParameterBytes: needs no copy and no device memory.
const char* launch_by_value(const void* image, int64_t num_bytes, Stream stream);

// The list is already in device memory, its upload ordered before this on the stream; `image` is the host's
// copy.
const char* launch(const void* image, int64_t num_bytes, const void* device_image, Stream stream);

// Copies an image to device memory by kernel parameters, piece by piece: it needs no host memory that
// outlives the call, so it is right under graph capture.
const char* upload_by_value(const void* image, int64_t num_bytes, void* device_image, Stream stream);

// Whether the stream's work goes into a graph instead of being done.
bool is_capturing(Stream stream);

// Launches of kernels that fill, so far in this process.
int64_t num_launches();

}  // namespace cuda
}  // namespace convinit
