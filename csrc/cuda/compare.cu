// The comparing kernel. What a block does is in compare_body.h.
#include "cuda/compare_body.h"
#include "cuda/kernel.inl"

namespace convinit {
namespace cuda {
namespace {

constexpr int kBlocksPerProcessor = 3;  // at least, which leaves 80 registers a thread

__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    compare_kernel(const __grid_constant__ Parameter parameter, const void* device_image, uint64_t* rows) {
  __shared__ Different whole;
  Block<Different> block(nothing());
  compare_body(device_image != nullptr ? device_image : parameter.bytes, blockIdx.x, gridDim.x, &block,
               &whole, rows);
}

// No element differs: 0 and -1 in each row.
cudaError_t clear(const Rows& rows, cudaStream_t stream) {
  constexpr size_t kNumber = sizeof(int64_t);
  const auto height = static_cast<size_t>(rows.num_rows);
  if (height == 0) return cudaSuccess;
  const cudaError_t error = cudaMemset2DAsync(rows.numbers, 2 * kNumber, 0, kNumber, height, stream);
  if (error != cudaSuccess) return error;
  return cudaMemset2DAsync(rows.numbers + 1, 2 * kNumber, 0xff, kNumber, height, stream);
}

}  // namespace

const char* launch_compare(const Image& image, const Rows& rows, Stream stream) {
  const cudaError_t cleared = clear(rows, static_cast<cudaStream_t>(stream));
  return launch<compare_kernel, DeviceFill>(image, stream, cleared,
                                            reinterpret_cast<uint64_t*>(rows.numbers));
}

}  // namespace cuda
}  // namespace convinit
