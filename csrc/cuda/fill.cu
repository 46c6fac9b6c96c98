// The fill kernel. What a thread does is in fill_body.h, what the host prepares in task_list_host.h.
#include "cuda/fill_body.h"
#include "cuda/kernel.inl"
#include "cuda/task_list_host.h"

namespace convinit {
namespace cuda {
namespace {

constexpr int kBlocksPerProcessor = 4;  // at least, which leaves 64 registers a thread

// The list is in the parameter itself where there is none in device memory.
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    fill_kernel(const __grid_constant__ Parameter parameter, const void* device_image) {
  fill_body(device_image != nullptr ? device_image : parameter.bytes, blockIdx.x, gridDim.x,
            Thread{threadIdx.x, kThreads});
}

}  // namespace

int64_t image_bytes(const FillTask* tasks, int64_t num_tasks) {
  return largest_image<DeviceFill>(tasks, num_tasks);
}

int64_t pack(const FillTask* tasks, const int64_t* rows, int64_t num_tasks, void* image) {
  return write_image(pack_fills(tasks, rows, num_tasks), image);
}

const char* launch_fill(const Image& image, const Rows&, Stream stream) {
  return launch<fill_kernel, DeviceFill>(image, stream, cudaSuccess);
}

}  // namespace cuda
}  // namespace convinit
