// What a launch needs of CUDA's runtime. Included by *.cu.

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cuda/engine.h"

#ifndef __grid_constant__
#define __grid_constant__  // not every HIP has it
#endif

namespace convinit {
namespace cuda {
namespace {

constexpr int kMaxDevices = 64;  // whose grid is remembered

struct Parameter {
  alignas(16) char bytes[kParameterBytes];
};

constexpr const char* kTooLarge = "the task list is too large for a kernel parameter";

constexpr const char* kNoCode =
    "this build has no code for this GPU, `python -m convinit_ext info` says for which ones: build it again "
    "with "
    "TORCH_CUDA_ARCH_LIST, 7.5 (sm_75) at least";

bool set(Parameter* parameter, const void* image, int64_t num_bytes) {
  if (num_bytes > kParameterBytes) return false;
  std::memcpy(parameter->bytes, image, static_cast<size_t>(num_bytes));
  return true;
}

// CUDA keeps an error for whoever asks next, after a launch that was right. It is told here.
const char* describe(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  (void)cudaGetLastError();
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) return kNoCode;
  return cudaGetErrorString(error);
}

// How many blocks of a kernel the current device runs at once.
template <auto kKernel>
cudaError_t resident_blocks(int num_threads, int* blocks) {
  static std::atomic<int> known[kMaxDevices];
  int device = 0, processors = 0, per_processor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const bool is_remembered = device < kMaxDevices;
  *blocks = is_remembered ? known[device].load(std::memory_order_relaxed) : 0;
  if (*blocks > 0) return cudaSuccess;
  error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kKernel, num_threads, 0);
  if (error != cudaSuccess) return error;
  *blocks = std::max(1, processors * per_processor);
  if (is_remembered) known[device].store(*blocks, std::memory_order_relaxed);
  return cudaSuccess;
}

// No more blocks than run at once: each takes unit after unit.
template <auto kKernel>
cudaError_t grid_of(int num_threads, int64_t num_units, unsigned* grid) {
  int blocks = 0;
  const cudaError_t error = resident_blocks<kKernel>(num_threads, &blocks);
  *grid = static_cast<unsigned>(std::min<int64_t>(blocks, num_units));
  return error;
}

}  // namespace
}  // namespace cuda
}  // namespace convinit
