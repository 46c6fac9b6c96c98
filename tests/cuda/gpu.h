// What tests of the kernels see of a GPU that only pretends: its memory, and when its work is done. tests/ptx
// is one that runs nvcc's PTX, engine_on_cpu.cpp one that runs the kernels' bodies.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpu {

// Device memory of exactly so many bytes, which begins so many bytes after a multiple of 256.
class Memory {
 public:
  explicit Memory(size_t num_bytes, size_t after = 0);
  ~Memory();
  Memory(Memory&& other) noexcept : begin_(other.begin_), num_bytes_(other.num_bytes_) {
    other.begin_ = nullptr;
  }
  Memory& operator=(Memory&&) = delete;

  char* data() const { return begin_; }
  size_t size() const { return num_bytes_; }

 private:
  char* begin_;
  size_t num_bytes_;
};

// How many blocks run at once.
void set_resident_blocks(int blocks);

// Does the work that was launched, in its order.
void synchronize();

}  // namespace gpu
