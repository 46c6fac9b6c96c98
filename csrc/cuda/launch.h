// What launches of every kind share. Knows nothing of torch, and includes no CUDA header, so that what calls
// it compiles anywhere. Functions that return const char* return nullptr, or CUDA's description of what
// failed.
#pragma once

#include <cstdint>

namespace convinit {
namespace cuda {

using Stream = void*;  // a cudaStream_t

// The largest image that travels as a kernel parameter: every device and toolkit takes 4 KiB of those.
constexpr int64_t kParameterBytes = 3840;

// Copies an image to device memory by kernel parameters, piece by piece: it needs no host memory that
// outlives the call, so it is right under graph capture.
const char* upload_by_value(const void* image, int64_t num_bytes, void* device_image, Stream stream);

// Whether the stream's work goes into a graph instead of being done.
bool is_capturing(Stream stream);

// Launches of kernels that fill or digest, so far in this process.
int64_t num_launches();
void count_launch();

}  // namespace cuda
}  // namespace convinit
