// The digest kernel. What a block does is in digest_body.h, what the host prepares in task_list_host.h.
#include "cuda/digest_body.h"
#include "cuda/kernel.inl"
#include "cuda/task_list_host.h"

namespace convinit {
namespace cuda {
namespace {

constexpr int kBlocksPerProcessor = 3;  // at least, which leaves 80 registers a thread
static_assert(kThreads <= kMostThreads, "shared memory has room for them");

__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    digest_kernel(const __grid_constant__ Parameter parameter, const void* device_image, uint64_t* rows) {
  __shared__ Shared shared;
  Block<Sums> block(Sums{});
  digest_body(device_image != nullptr ? device_image : parameter.bytes, blockIdx.x, gridDim.x, &block,
              &shared, rows);
}

cudaError_t clear(const Rows& rows, cudaStream_t stream) {
  const size_t num_bytes = static_cast<size_t>(rows.num_rows) * kSums * sizeof(int64_t);
  return num_bytes > 0 ? cudaMemsetAsync(rows.numbers, 0, num_bytes, stream) : cudaSuccess;
}

}  // namespace

int64_t image_bytes(const DigestTask* tasks, int64_t num_tasks) {
  return largest_image<DeviceDigest>(tasks, num_tasks);
}

int64_t pack(const DigestTask* tasks, const int64_t* rows, int64_t num_tasks, void* image) {
  return write_image(pack_digests(tasks, rows, num_tasks), image);
}

const char* launch_digest(const Image& image, const Rows& rows, Stream stream) {
  const cudaError_t cleared = clear(rows, static_cast<cudaStream_t>(stream));
  return launch<digest_kernel, DeviceDigest>(image, stream, cleared,
                                             reinterpret_cast<uint64_t*>(rows.numbers));
}

}  // namespace cuda
}  // namespace convinit
