// See fill.h. What a thread does is in fill_body.h, what the host prepares in pack.h.
#include "cuda/fill.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cuda/fill_body.h"
#include "cuda/pack.h"

#ifndef __grid_constant__
#define __grid_constant__  // not every HIP has it
#endif

namespace convinit {
namespace cuda {
namespace {

constexpr int kThreads = kUnitItems;
constexpr int kBlocksPerProcessor = 4;  // at least, which leaves 64 registers a thread
constexpr int kMaxDevices = 64;         // whose grid is remembered

struct Parameter {
  alignas(16) char bytes[kParameterBytes];
};

std::atomic<int64_t> launches{0};

// The list is in the parameter itself where there is none in device memory.
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    fill_kernel(const __grid_constant__ Parameter parameter, const void* device_image) {
  fill_body(device_image != nullptr ? device_image : parameter.bytes, blockIdx.x, gridDim.x,
            Thread{threadIdx.x, kThreads});
}

__global__ void copy_kernel(const __grid_constant__ Parameter parameter, int64_t num_words, uint64_t* to) {
  const auto* from = reinterpret_cast<const uint64_t*>(parameter.bytes);
  for (int64_t i = threadIdx.x; i < num_words; i += blockDim.x) to[i] = from[i];
}

const char* describe(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

// How many blocks the current device runs at once.
cudaError_t resident_blocks(int* blocks) {
  static std::atomic<int> known[kMaxDevices];
  int device = 0, processors = 0, per_processor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const bool is_remembered = device < kMaxDevices;
  *blocks = is_remembered ? known[device].load(std::memory_order_relaxed) : 0;
  if (*blocks > 0) return cudaSuccess;
  error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, fill_kernel, kThreads, 0);
  if (error != cudaSuccess) return error;
  *blocks = std::max(1, processors * per_processor);
  if (is_remembered) known[device].store(*blocks, std::memory_order_relaxed);
  return cudaSuccess;
}

const char* launch_fill(const void* image, int64_t num_bytes, const void* device_image, Stream stream) {
  const int64_t num_units = open_image(image).header->num_units;
  if (num_units == 0) return nullptr;
  int blocks = 0;
  const cudaError_t error = resident_blocks(&blocks);
  if (error != cudaSuccess) return describe(error);
  Parameter parameter;
  if (device_image == nullptr) std::memcpy(parameter.bytes, image, static_cast<size_t>(num_bytes));
  const auto grid = static_cast<unsigned>(std::min<int64_t>(blocks, num_units));
  fill_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(parameter, device_image);
  ++launches;
  return describe(cudaGetLastError());
}

}  // namespace

int64_t image_bytes(const FillTask* tasks, int64_t num_tasks) { return largest_image(tasks, num_tasks); }

int64_t pack(const FillTask* tasks, int64_t num_tasks, void* image) {
  const PackedList list = pack_list(tasks, num_tasks);
  write_image(list, image);
  return image_size(list);
}

const char* launch_by_value(const void* image, int64_t num_bytes, Stream stream) {
  if (num_bytes > kParameterBytes) return "the task list is too large for a kernel parameter";
  return launch_fill(image, num_bytes, nullptr, stream);
}

const char* launch(const void* image, int64_t num_bytes, const void* device_image, Stream stream) {
  return launch_fill(image, num_bytes, device_image, stream);
}

const char* upload_by_value(const void* image, int64_t num_bytes, void* device_image, Stream stream) {
  for (int64_t done = 0; done < num_bytes; done += kParameterBytes) {
    const int64_t length = std::min(kParameterBytes, num_bytes - done);
    Parameter parameter;
    std::memcpy(parameter.bytes, static_cast<const char*>(image) + done, static_cast<size_t>(length));
    auto* to = reinterpret_cast<uint64_t*>(static_cast<char*>(device_image) + done);
    copy_kernel<<<1, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        parameter, length / static_cast<int64_t>(sizeof(uint64_t)), to);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return describe(error);
  }
  return nullptr;
}

bool is_capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  // Asked about the legacy stream while another is captured, CUDA only returns an error: to be forgotten.
  if (cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  return status != cudaStreamCaptureStatusNone;
}

int64_t num_launches() { return launches.load(); }

}  // namespace cuda
}  // namespace convinit
