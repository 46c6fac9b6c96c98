// The GPU's engine (csrc/cuda/engine.h) without a GPU or nvcc: launches run the kernels' bodies here, at
// once, by blocks of as many threads as comes next. For kernels.cpp under the sanitizers.
#include <cstring>
#include <new>

#include "block_on_cpu.h"
#include "cuda/engine.h"
#include "cuda/task_list_host.h"
#include "gpu.h"

namespace {

uint32_t num_blocks = 1, num_launched = 0;

uint32_t next_threads() { return 1u << num_launched++ % 9; }

const void* image_of(const convinit::cuda::Image& image) {
  return image.on_device != nullptr ? image.on_device : image.on_host;
}

}  // namespace

namespace gpu {

constexpr std::align_val_t kAlignment{256};

Memory::Memory(size_t num_bytes, size_t after) : num_bytes_(num_bytes) {
  begin_ = static_cast<char*>(operator new(after + num_bytes, kAlignment)) + after;
}

Memory::~Memory() {
  const auto place = reinterpret_cast<uintptr_t>(begin_);
  operator delete(begin_ - place % static_cast<size_t>(kAlignment), kAlignment);
}

void set_resident_blocks(int blocks) { num_blocks = static_cast<uint32_t>(blocks); }
void synchronize() {}

}  // namespace gpu

namespace convinit {
namespace cuda {

int64_t image_bytes(const FillTask* tasks, int64_t num_tasks) {
  return largest_image<DeviceFill>(tasks, num_tasks);
}

int64_t image_bytes(const DigestTask* tasks, int64_t num_tasks) {
  return largest_image<DeviceDigest>(tasks, num_tasks);
}

const char* launch_fill(const Image& image, const Rows&, Stream) {
  const uint32_t num_threads = next_threads();
  for (uint32_t block = 0; block < num_blocks; ++block) {
    for (uint32_t thread = 0; thread < num_threads; ++thread) {
      fill_body(image_of(image), block, num_blocks, {thread, num_threads});
    }
  }
  return nullptr;
}

const char* launch_compare(const Image& image, const Rows& rows, Stream) {
  for (int64_t i = 0; i < 2 * rows.num_rows; ++i) rows.numbers[i] = -(i % 2);
  compare_on_grid(image_of(image), num_blocks, next_threads(), reinterpret_cast<uint64_t*>(rows.numbers));
  return nullptr;
}

const char* launch_digest(const Image& image, const Rows& rows, Stream) {
  std::memset(rows.numbers, 0, static_cast<size_t>(rows.num_rows) * kSums * sizeof(uint64_t));
  digest_on_grid(image_of(image), num_blocks, next_threads(), reinterpret_cast<uint64_t*>(rows.numbers));
  return nullptr;
}

const char* upload_by_value(const void* image, int64_t num_bytes, void* device_image, Stream) {
  std::memcpy(device_image, image, static_cast<size_t>(num_bytes));
  return nullptr;
}

}  // namespace cuda
}  // namespace convinit
