// A kernel: the threads of its blocks as its body wants them, and its launch. Included by *.cu.

#include "cuda/launch.inl"
#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

void count_launch();

namespace {

constexpr int kThreads = kUnitItems;

// The team of task_list.h. Own is what each thread keeps for itself.
template <class Own>
class Block {
 public:
  explicit __device__ __forceinline__ Block(const Own& own) : own_(own) {}

  static constexpr __device__ uint32_t num_threads() { return kThreads; }

  template <class Step>
  __device__ __forceinline__ void each(Step step) {
    step(Thread{threadIdx.x, kThreads}, &own_);
    __syncthreads();
  }

  // Of whole numbers, so their order does not matter.
  __device__ __forceinline__ void add(uint64_t* to, uint64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
  }
  __device__ __forceinline__ void lower(uint64_t* to, uint64_t value) {
    atomicMin(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
  }

 private:
  Own own_;
};

// `cleared` is what became of the memory for results.
template <auto kKernel, class Task, class... Results>
const char* launch(const Image& image, Stream stream, cudaError_t cleared, Results... results) {
  const int64_t num_units = open_image<Task>(image.on_host).header->num_units;
  if (cleared != cudaSuccess || num_units == 0) return describe(cleared);
  Parameter parameter;
  if (image.on_device == nullptr && !set(&parameter, image.on_host, image.num_bytes)) return kTooLarge;
  unsigned grid = 0;
  const cudaError_t error = grid_of<kKernel>(kThreads, num_units, &grid);
  if (error != cudaSuccess) return describe(error);
  kKernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(parameter, image.on_device, results...);
  count_launch();
  return describe(cudaGetLastError());
}

}  // namespace
}  // namespace cuda
}  // namespace convinit
