// The threads of a block as a kernel's body wants them: digest_body.h, compare_body.h. Included by *.cu.

#include "cuda/task_list.h"

namespace convinit {
namespace cuda {
namespace {

// Own is what each of its kThreads threads keeps for itself.
template <class Own, int kThreads>
class Block {
 public:
  explicit __device__ __forceinline__ Block(const Own& own) : own_(own) {}

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

}  // namespace
}  // namespace cuda
}  // namespace convinit
