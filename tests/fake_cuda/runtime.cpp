// As much of CUDA's runtime as csrc/cuda calls, itself and by the code that nvcc adds to it: one stream,
// whose work is done when the host waits for it, and calls that fail when they are told to.
#include "runtime.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>

#include "gpu.h"
#include "machine.h"

Runtime runtime;

namespace {

std::vector<std::function<void()>> stream;

// Both are filled before main() begins.
std::map<std::string, Found>& kernels_by_name() {
  static std::map<std::string, Found> kernels;
  return kernels;
}
std::map<const void*, std::string>& names_by_function() {
  static std::map<const void*, std::string> names;
  return names;
}

void check(bool condition, const char* what) {
  if (condition) return;
  std::printf("the host: %s\n", what);
  std::exit(1);
}

cudaError_t answer(const char* call) {
  if (runtime.failing != call) return cudaSuccess;
  return static_cast<cudaError_t>(runtime.kept = cudaErrorUnknown);
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** given, size_t dynamic_shared) {
  if (answer("launch") != cudaSuccess) return cudaErrorUnknown;
  const Found& found = kernels_by_name().at(names_by_function().at(function));
  check(grid.x > 0 && grid.y == 1 && grid.z == 1, "a grid of another shape");
  check(block.x <= found.kernel->most_threads && block.y == 1 && block.z == 1, "a block of another shape");
  check(dynamic_shared == 0, "shared memory that the machine does not know");
  std::vector<std::vector<char>> values;
  for (size_t i = 0; i < found.kernel->given_bytes.size(); ++i) {
    const auto* from = static_cast<const char*>(given[i]);
    values.emplace_back(from, from + found.kernel->given_bytes[i]);
  }
  stream.emplace_back([=, &found] { run_grid(found, values, grid.x, block.x); });
  runtime.blocks = grid.x;
  ++runtime.num_launches;
  return cudaSuccess;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
} configuration;

}  // namespace

Module::Module(const char* file, std::vector<Kernel> kernels, size_t shared_bytes) {
  for (const Kernel& kernel : kernels)
    kernels_by_name()[kernel.name] = {new Kernel(kernel), file, shared_bytes};
}

namespace gpu {

void set_resident_blocks(int blocks) {
  runtime.processors = blocks;
  runtime.blocks_per_processor = 1;
}

void synchronize() {
  for (const std::function<void()>& work : stream) work();
  stream.clear();
}

}  // namespace gpu

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = runtime.device;
  return answer("device");
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = runtime.processors;
  return answer("attribute");
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function, int,
                                                                   size_t, unsigned) {
  check(names_by_function().count(function) == 1, "an unknown kernel's occupancy");
  ++runtime.num_asked;
  *blocks = runtime.blocks_per_processor;
  if (runtime.failing == "image") runtime.kept = cudaErrorNoKernelImageForDevice;
  return runtime.failing == "image" ? cudaErrorNoKernelImageForDevice : answer("occupancy");
}

cudaError_t cudaGetLastError() {
  const int error = runtime.kept;
  runtime.kept = cudaSuccess;
  return static_cast<cudaError_t>(error);
}

const char* cudaGetErrorString(cudaError_t) { return "an error"; }

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = runtime.is_capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return answer("capturing");
}

cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  check(is_device_memory(to, pitch * (height - 1) + width), "memory is set that is not there");
  stream.emplace_back([=] {
    for (size_t i = 0; i < height; ++i) std::memset(static_cast<char*>(to) + i * pitch, value, width);
  });
  return answer("memset");
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t count, cudaStream_t on) {
  return cudaMemset2DAsync(to, count, value, count, 1, on);
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** given, size_t shared,
                             cudaStream_t) {
  return launch(function, grid, block, given, shared);
}

// What nvcc's own code calls.

void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }

void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  names_by_function()[function] = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* on) {
  configuration = {grid, block, shared, on};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* on) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  std::memcpy(on, &configuration.stream, sizeof configuration.stream);
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  std::memcpy(kernel, &function, sizeof function);
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** given, size_t shared,
                               cudaStream_t) {
  return launch(kernel, grid, block, given, shared);
}

}  // extern "C"
