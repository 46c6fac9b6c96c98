// As much of CUDA's runtime as csrc/cuda/launch.inl calls, for tests/cuda/launcher_on_cpu.cpp: one device,
// and calls that fail when they are told to.
#pragma once

#include <cstddef>
#include <string>

enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

struct FakeRuntime {
  int device = 0, processors = 3, blocks_per_processor = 4;
  int num_asked = 0;               // for how many blocks run at once
  std::string failing;             // the call that fails
  cudaError_t kept = cudaSuccess;  // for who asks with cudaGetLastError
};
inline FakeRuntime runtime;

inline cudaError_t answer(const char* call) {
  if (runtime.failing == call) runtime.kept = cudaErrorNoKernelImageForDevice;
  return runtime.failing == call ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = runtime.device;
  return answer("device");
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = runtime.processors;
  return answer("attribute");
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  ++runtime.num_asked;
  *blocks = runtime.blocks_per_processor;
  return answer("occupancy");
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = runtime.kept;
  runtime.kept = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t) { return "no kernel image"; }
