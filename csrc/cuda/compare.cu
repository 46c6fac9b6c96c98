// See compare.h. What a block does is in compare_body.h, what the host prepares in pack.h.
#include "cuda/compare.h"

#include "cuda/compare_body.h"
#include "cuda/launch.inl"
#include "cuda/pack.h"
#include "cuda/team.inl"

namespace convinit {
namespace cuda {
namespace {

constexpr int kThreads = kUnitItems;
constexpr int kBlocksPerProcessor = 3;  // at least, which leaves 80 registers a thread

__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    compare_kernel(const __grid_constant__ Parameter parameter, const void* device_image, uint64_t* rows) {
  __shared__ Different whole;
  Block<Different, kThreads> block(nothing());
  compare_body(device_image != nullptr ? device_image : parameter.bytes, blockIdx.x, gridDim.x, kThreads,
               &block, &whole, rows);
}

// No element differs: 0 and -1 in each row.
cudaError_t clear(const DifferenceRows& rows, cudaStream_t stream) {
  constexpr size_t kNumber = sizeof(int64_t);
  const auto height = static_cast<size_t>(rows.num_rows);
  if (height == 0) return cudaSuccess;
  const cudaError_t error = cudaMemset2DAsync(rows.numbers, 2 * kNumber, 0, kNumber, height, stream);
  if (error != cudaSuccess) return error;
  return cudaMemset2DAsync(rows.numbers + 1, 2 * kNumber, 0xff, kNumber, height, stream);
}

}  // namespace

int64_t pack_compare(const FillTask* tasks, const int64_t* rows, int64_t num_tasks, void* image) {
  const PackedList<Task> list = pack_compare_list(tasks, rows, num_tasks);
  write_image(list, image);
  return image_size(list);
}

const char* launch_compare(const void* image, int64_t num_bytes, const void* device_image,
                           const DifferenceRows& rows, Stream stream) {
  const auto on_stream = static_cast<cudaStream_t>(stream);
  cudaError_t error = clear(rows, on_stream);
  const int64_t num_units = open_image<Task>(image).header->num_units;
  if (error != cudaSuccess || num_units == 0) return describe(error);
  Parameter parameter;
  if (device_image == nullptr && !set(&parameter, image, num_bytes)) return kTooLarge;
  unsigned grid = 0;
  error = grid_of<compare_kernel>(kThreads, num_units, &grid);
  if (error != cudaSuccess) return describe(error);
  compare_kernel<<<grid, kThreads, 0, on_stream>>>(parameter, device_image,
                                                   reinterpret_cast<uint64_t*>(rows.numbers));
  count_launch();
  return describe(cudaGetLastError());
}

}  // namespace cuda
}  // namespace convinit
