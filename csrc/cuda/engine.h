// Fills, compares and digests lists of tensors on the current CUDA device, on a stream. Knows nothing of
// torch, and includes no CUDA header, so that what calls it compiles anywhere. Functions that return
// const char* return nullptr, or CUDA's description of what failed.
#pragma once

#include "core/task.h"

namespace convinit {
namespace cuda {

using Stream = void*;  // a cudaStream_t

// A list of tasks is one block of bytes, position independent, copied to the device as it is. The tasks'
// `data` are addresses on the device. This is the most that the block can take.
int64_t image_bytes(const FillTask* tasks, int64_t num_tasks);
int64_t image_bytes(const DigestTask* tasks, int64_t num_tasks);

// To host memory, 16-byte aligned, pinned or not. Returns how many bytes it took. `rows` has the row of each
// task's results; null of fills that are done, not compared.
int64_t pack(const FillTask* tasks, const int64_t* rows, int64_t num_tasks, void* image);
int64_t pack(const DigestTask* tasks, const int64_t* rows, int64_t num_tasks, void* image);

// The largest image that travels as a kernel parameter: every device and toolkit takes 4 KiB of those.
constexpr int64_t kParameterBytes = 3840;

// The list travels as a kernel parameter where `on_device` is null, num_bytes <= kParameterBytes then; else
// it is already in device memory, its upload ordered before the launch on the stream.
struct Image {
  const void* on_host;
  int64_t num_bytes;
  const void* on_device;
};

// Results in device memory, all of which a launch writes: of a comparison the number of elements that differ
// and the linear index of the first, -1 where there is none; of a digest kSums sums, zero where no task has
// the row. A fill has none.
struct Rows {
  int64_t* numbers;
  int64_t num_rows;
};

using Launch = const char* (*)(const Image& image, const Rows& rows, Stream stream);
const char* launch_fill(const Image& image, const Rows& rows, Stream stream);
const char* launch_compare(const Image& image, const Rows& rows, Stream stream);
const char* launch_digest(const Image& image, const Rows& rows, Stream stream);

// Copies an image to device memory by kernel parameters, piece by piece: it needs no host memory that
// outlives the call, so it is right under graph capture.
const char* upload_by_value(const void* image, int64_t num_bytes, void* device_image, Stream stream);

// Whether the stream's work goes into a graph instead of being done.
bool is_capturing(Stream stream);

// Kernels launched so far in this process that fill, compare or digest.
int64_t num_launches();

}  // namespace cuda
}  // namespace convinit
