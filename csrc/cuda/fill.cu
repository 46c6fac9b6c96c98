// See fill.h. What a thread does is in fill_body.h, what the host prepares in pack.h.
#include "cuda/fill.h"

#include "cuda/fill_body.h"
#include "cuda/launch.inl"
#include "cuda/pack.h"

namespace convinit {
namespace cuda {
namespace {

constexpr int kThreads = kUnitItems;
constexpr int kBlocksPerProcessor = 4;  // at least, which leaves 64 registers a thread

// The list is in the parameter itself where there is none in device memory.
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    fill_kernel(const __grid_constant__ Parameter parameter, const void* device_image) {
  fill_body(device_image != nullptr ? device_image : parameter.bytes, blockIdx.x, gridDim.x,
            Thread{threadIdx.x, kThreads});
}

}  // namespace

int64_t image_bytes(const FillTask* tasks, int64_t num_tasks) { return largest_image(tasks, num_tasks); }

int64_t pack(const FillTask* tasks, int64_t num_tasks, void* image) {
  const PackedList<Task> list = pack_list(tasks, num_tasks);
  write_image(list, image);
  return image_size(list);
}

const char* launch(const void* image, int64_t num_bytes, const void* device_image, Stream stream) {
  const int64_t num_units = open_image<Task>(image).header->num_units;
  if (num_units == 0) return nullptr;
  Parameter parameter;
  if (device_image == nullptr && !set(&parameter, image, num_bytes)) return kTooLarge;
  unsigned grid = 0;
  const cudaError_t error = grid_of<fill_kernel>(kThreads, num_units, &grid);
  if (error != cudaSuccess) return describe(error);
  fill_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(parameter, device_image);
  count_launch();
  return describe(cudaGetLastError());
}

}  // namespace cuda
}  // namespace convinit
