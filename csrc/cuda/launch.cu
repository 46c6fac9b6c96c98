// What launches of every kind share; see engine.h.
#include "cuda/kernel.inl"

namespace convinit {
namespace cuda {
namespace {

std::atomic<int64_t> launches{0};

__global__ void copy_kernel(const __grid_constant__ Parameter parameter, int64_t num_words, uint64_t* to) {
  const auto* from = reinterpret_cast<const uint64_t*>(parameter.bytes);
  for (int64_t i = threadIdx.x; i < num_words; i += blockDim.x) to[i] = from[i];
}

}  // namespace

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
void count_launch() { ++launches; }

}  // namespace cuda
}  // namespace convinit
