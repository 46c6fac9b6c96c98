// Between the CUDA runtime that only pretends (runtime.cpp), its machine (machine.cpp) and the tests of the
// launcher.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct Kernel;

// A kernel, its PTX's file, and the shared memory of its blocks.
struct Found {
  const Kernel* kernel;
  const char* file;
  size_t shared_bytes;
};

// `values` are those of the parameters.
void run_grid(const Found& found, const std::vector<std::vector<char>>& values, uint32_t blocks,
              uint32_t threads);
bool is_device_memory(const void* begin, size_t size);

struct Runtime {
  int device = 70, processors = 3, blocks_per_processor = 4;
  int num_asked = 0;    // for how many blocks run at once
  std::string failing;  // the call that fails
  int kept = 0;         // the error, for who asks with cudaGetLastError
  bool is_capturing = false;
  uint32_t blocks = 0;  // of the latest launch
  int64_t num_launches = 0;
};
extern Runtime runtime;
