// CUDA's registration of the ops: device guard, stream, memory for the task list, launch errors. Against
// torch's stable ABI and csrc/cuda/fill.h, and no CUDA header, so that it compiles beside any torch.
#include "torch_abi.h"

#define USE_CUDA  // shim.h declares aoti_torch_get_current_cuda_stream only then
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/fill.h"
#include "tasks.h"

namespace convinit {
namespace {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::accelerator::DeviceGuard;

void check_cuda(const char* error) {
  check(error == nullptr, "fill_: CUDA could not launch the fill: ", error ? error : "");
}

// torch's own errors cross the stable ABI as a source line of its headers; the reason is in its log.
template <class Call>
auto by_torch(const char* what, Call call) {
  try {
    return call();
  } catch (const std::exception&) {
    throw std::runtime_error(std::string("fill_: ") + what);
  }
}

cuda::Stream current_stream(int32_t device) {
  return by_torch("PyTorch has no current stream for the tensor's CUDA device", [&] {
    cuda::Stream stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    return stream;
  });
}

Tensor empty_on_device(int64_t num_bytes, int32_t device) {
  return by_torch("out of memory on the GPU, for the list of what to fill", [&] {
    return torch::stable::empty({num_bytes}, ScalarType::Byte, std::nullopt,
                                Device(DeviceType::CUDA, device));
  });
}

Tensor empty_pinned(int64_t num_bytes) {
  return by_torch("out of page-locked memory, for the list of what to fill", [&] {
    return torch::stable::empty({num_bytes}, ScalarType::Byte, std::nullopt, Device(DeviceType::CPU), true);
  });
}

// One device's task list on its way there. Constructing it takes all the memory that the launch needs, so
// that nothing has been written anywhere when there is too little.
//
// Page-locked memory belongs to PyTorch's caching host allocator, which gives it out again only when the
// stream has passed the copy; device memory belongs to its caching allocator, which gives it out again to
// work that comes later on the stream. A graph's replay finds that device memory in the graph's own pool, and
// uploads the list again: by value, since host memory would be gone by then.
class Upload {
 public:
  explicit Upload(const DeviceTasks& list) : device_(list.device), stream_(current_stream(list.device)) {
    const DeviceGuard guard(device_);
    const FillTask* tasks = list.tasks.data();
    const int64_t room = cuda::image_bytes(tasks, list.tasks.size());
    if (room > cuda::kParameterBytes) {
      on_device_ = empty_on_device(room, device_);
      if (!cuda::is_capturing(stream_)) pinned_ = empty_pinned(room);
    }
    if (!pinned_.defined()) unpinned_.resize(room / sizeof(std::max_align_t) + 1);
    num_bytes_ = cuda::pack(tasks, list.tasks.size(), image());
  }

  void launch() {
    const DeviceGuard guard(device_);
    if (!on_device_.defined()) return check_cuda(cuda::launch_by_value(image(), num_bytes_, stream_));
    void* const device_image = on_device_.mutable_data_ptr();
    if (pinned_.defined()) {
      by_torch("PyTorch could not copy the list of what to fill to the GPU",
               [&] { return torch::stable::copy_(on_device_, pinned_, /*non_blocking=*/true); });
    } else {
      check_cuda(cuda::upload_by_value(image(), num_bytes_, device_image, stream_));
    }
    check_cuda(cuda::launch(image(), num_bytes_, device_image, stream_));
  }

 private:
  void* image() { return pinned_.defined() ? pinned_.mutable_data_ptr() : unpinned_.data(); }

  int32_t device_;
  cuda::Stream stream_;
  int64_t num_bytes_ = 0;
  std::vector<std::max_align_t> unpinned_;
  Tensor pinned_;
  Tensor on_device_;
};

// The GPUs work side by side, and beside the CPU.
void run(const std::vector<DeviceTasks>& lists) {
  std::vector<Upload> uploads;
  uploads.reserve(lists.size());
  for (const DeviceTasks& list : lists) {
    if (list.device != kCpu && !list.tasks.empty()) uploads.emplace_back(list);
  }
  for (Upload& upload : uploads) upload.launch();
  for (const DeviceTasks& list : lists) {
    if (list.device == kCpu) list.tasks.run_on_cpu();
  }
}

// Called where one of the tensors is on a CUDA device; others may be on other ones, or on the CPU.
void fill_cuda(std::vector<Tensor> tensors, Tensor keys, std::vector<int64_t> kinds,
               std::vector<double> params, std::vector<int64_t> box_starts,
               std::vector<int64_t> box_strides) {
  run(tasks_of({std::move(tensors), std::move(keys), std::move(kinds), std::move(params),
                std::move(box_starts), std::move(box_strides)}));
}

void fill_one_cuda(Tensor tensor, Tensor key, int64_t kind, double p0, double p1, double p2, double p3) {
  DeviceTasks list{tensor.get_device_index(), tasks_of(tensor, key, kind, {p0, p1, p2, p3})};
  if (!list.tasks.empty()) Upload(list).launch();
}

void fill_part_cuda(Tensor tensor, Tensor key, int64_t kind, double p0, double p1, double p2, double p3,
                    int64_t start, std::vector<int64_t> strides) {
  DeviceTasks list{tensor.get_device_index(), tasks_of(tensor, key, kind, {p0, p1, p2, p3}, start, strides)};
  if (!list.tasks.empty()) Upload(list).launch();
}

}  // namespace
}  // namespace convinit

STABLE_TORCH_LIBRARY_IMPL(convinit_ext, CUDA, m) {
  m.impl("fill_", TORCH_BOX(&convinit::fill_cuda));
  m.impl("fill_one_", TORCH_BOX(&convinit::fill_one_cuda));
  m.impl("fill_part_", TORCH_BOX(&convinit::fill_part_cuda));
}
