// See digest.h. What a block does is in digest_body.h, what the host prepares in pack_digest.h.
#include "cuda/digest.h"

#include "cuda/digest_body.h"
#include "cuda/launch.inl"
#include "cuda/pack_digest.h"
#include "cuda/team.inl"

namespace convinit {
namespace cuda {
namespace {

constexpr int kThreads = kUnitItems;
constexpr int kBlocksPerProcessor = 3;  // at least, which leaves 80 registers a thread
static_assert(kThreads <= kMostThreads, "shared memory has room for them");

__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    digest_kernel(const __grid_constant__ Parameter parameter, const void* device_image, uint64_t* rows) {
  __shared__ Shared shared;
  Block<Sums, kThreads> block(Sums{});
  digest_body(device_image != nullptr ? device_image : parameter.bytes, blockIdx.x, gridDim.x, &block,
              &shared, rows);
}

}  // namespace

int64_t digest_image_bytes(const DigestInput* inputs, int64_t num_inputs) {
  return largest_digest_image(inputs, num_inputs);
}

int64_t pack_digest(const DigestInput* inputs, int64_t num_inputs, void* image) {
  const PackedList<DigestTask> list = pack_digest_list(inputs, num_inputs);
  write_image(list, image);
  return image_size(list);
}

const char* launch_digest(const void* image, int64_t num_bytes, const void* device_image, const SumRows& rows,
                          Stream stream) {
  const auto on_stream = static_cast<cudaStream_t>(stream);
  const size_t row_bytes = static_cast<size_t>(rows.num_rows) * kSums * sizeof(uint64_t);
  cudaError_t error = row_bytes > 0 ? cudaMemsetAsync(rows.sums, 0, row_bytes, on_stream) : cudaSuccess;
  const int64_t num_units = open_image<DigestTask>(image).header->num_units;
  if (error != cudaSuccess || num_units == 0) return describe(error);
  Parameter parameter;
  if (device_image == nullptr && !set(&parameter, image, num_bytes)) return kTooLarge;
  unsigned grid = 0;
  error = grid_of<digest_kernel>(kThreads, num_units, &grid);
  if (error != cudaSuccess) return describe(error);
  digest_kernel<<<grid, kThreads, 0, on_stream>>>(parameter, device_image, rows.sums);
  count_launch();
  return describe(cudaGetLastError());
}

}  // namespace cuda
}  // namespace convinit
