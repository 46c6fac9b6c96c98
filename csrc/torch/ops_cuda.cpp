// CUDA's registration of the ops: device guard, stream, memory for the task list, launch errors. Against
// torch's stable ABI and csrc/cuda/engine.h, and no CUDA header, so that it compiles beside any torch.
#define USE_CUDA  // shim.h declares aoti_torch_get_current_cuda_stream only then
#include "torch/tasks.h"

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

#include "core/digest.h"
#include "cpu/float_environment.h"
#include "cuda/engine.h"

namespace convinit {
namespace {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::accelerator::DeviceGuard;

// What is launched, and its name in messages.
struct Op {
  const char* name;
  const char* verb;
  const char* noun;
  cuda::Launch launch;
};
constexpr Op kFill{"fill_", "fill", "fill", cuda::launch_fill};
constexpr Op kDigest{"digest", "digest", "digest", cuda::launch_digest};
constexpr Op kCompare{"compare", "compare", "comparison", cuda::launch_compare};

void check_cuda(const Op& op, const char* error) {
  check(error == nullptr, op.name, ": CUDA could not launch the ", op.noun, ": ", error ? error : "");
}

// torch's own errors cross the stable ABI as a source line of its headers; the reason is in its log.
template <class Call>
auto by_torch(const Op& op, const std::string& what, Call call) {
  try {
    return call();
  } catch (const std::exception&) {
    throw std::runtime_error(std::string(op.name) + ": " + what);
  }
}

cuda::Stream current_stream(const Op& op, int32_t device) {
  return by_torch(op, "PyTorch has no current stream for the tensor's CUDA device", [&] {
    cuda::Stream stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    return stream;
  });
}

// On a CUDA device, or page-locked memory of the host.
Tensor empty(const Op& op, const Ints& shape, ScalarType type, int32_t device, const std::string& use) {
  const char* memory =
      device == kCpu ? "out of page-locked memory, for the " : "out of memory on the GPU, for the ";
  return by_torch(op, memory + use, [&] {
    return torch::stable::empty(shape, type, std::nullopt,
                                device == kCpu ? Device(DeviceType::CPU) : Device(DeviceType::CUDA, device),
                                device == kCpu);
  });
}

// One device's task list on its way there. Constructing it takes all the memory that the launch needs, so
// that nothing has been written anywhere when there is too little.
//
// Page-locked memory belongs to PyTorch's caching host allocator, which gives it out again only when the
// stream has passed the copy; device memory belongs to its caching allocator, which gives it out again to
// work that comes later on the stream. A graph's replay finds that device memory in the graph's own pool, and
// uploads the list again: by value, since host memory would be gone by then.
template <class Task>
class Upload {
 public:
  Upload(const Op& op, int32_t device, const Tasks<Task>& tasks, const cuda::Rows& results)
      : op_(op), device_(device), results_(results), stream_(current_stream(op, device)) {
    const DeviceGuard guard(device_);
    const int64_t room = cuda::image_bytes(tasks.list.data(), tasks.size());
    if (room > cuda::kParameterBytes) {
      const std::string use = std::string("list of what to ") + op_.verb;
      on_device_ = empty(op_, {room}, ScalarType::Byte, device_, use);
      if (!cuda::is_capturing(stream_)) pinned_ = empty(op_, {room}, ScalarType::Byte, kCpu, use);
    }
    if (!pinned_.defined()) unpinned_.resize(room / sizeof(std::max_align_t) + 1);
    const DefaultFloatEnvironment environment;  // constants are rounded
    const int64_t* rows = tasks.rows.empty() ? nullptr : tasks.rows.data();
    num_bytes_ = cuda::pack(tasks.list.data(), rows, tasks.size(), image());
  }

  void launch() {
    const DeviceGuard guard(device_);
    void* const device_image = on_device_.defined() ? on_device_.mutable_data_ptr() : nullptr;
    if (pinned_.defined()) {
      by_torch(op_, std::string("PyTorch could not copy the list of what to ") + op_.verb + " to the GPU",
               [&] { return torch::stable::copy_(on_device_, pinned_, /*non_blocking=*/true); });
    } else if (on_device_.defined()) {
      check_cuda(op_, cuda::upload_by_value(image(), num_bytes_, device_image, stream_));
    }
    check_cuda(op_, op_.launch({image(), num_bytes_, device_image}, results_, stream_));
  }

 private:
  void* image() { return pinned_.defined() ? pinned_.mutable_data_ptr() : unpinned_.data(); }

  const Op& op_;
  int32_t device_;
  cuda::Rows results_;
  cuda::Stream stream_;
  int64_t num_bytes_ = 0;
  std::vector<std::max_align_t> unpinned_;
  Tensor pinned_;
  Tensor on_device_;
};

// Called where one of the tensors is on a CUDA device; others may be on other ones, or on the CPU. The GPUs
// work side by side, and beside the CPU.
void fill_cuda(const Tensors& tensors, const Tensor& keys, const Ints& kinds, const Floats& params,
               const Ints& box_starts, const Ints& box_strides) {
  const std::vector<DeviceTasks> lists = fill_tasks({tensors, keys, kinds, params, box_starts, box_strides});
  std::vector<Upload<FillTask>> uploads;
  uploads.reserve(lists.size());
  for (const auto& [device, tasks] : lists) {
    if (device != kCpu && tasks.size() > 0) uploads.emplace_back(kFill, device, tasks, cuda::Rows{});
  }
  for (Upload<FillTask>& upload : uploads) upload.launch();
  for (const auto& [device, tasks] : lists) {
    if (device == kCpu) fill_on_cpu(tasks);
  }
}

void fill_on_device(const Tensor& tensor, const FillTasks& tasks) {
  if (tasks.size() > 0) Upload<FillTask>(kFill, tensor.get_device_index(), tasks, {}).launch();
}

void fill_one_cuda(const Tensor& tensor, const Tensor& key, int64_t kind, double p0, double p1, double p2,
                   double p3) {
  fill_on_device(tensor, fill_tasks(tensor, key, kind, {p0, p1, p2, p3}));
}

void fill_part_cuda(const Tensor& tensor, const Tensor& key, int64_t kind, double p0, double p1, double p2,
                    double p3, int64_t start, const Ints& strides) {
  fill_on_device(tensor, fill_tasks(tensor, key, kind, {p0, p1, p2, p3}, start, strides));
}

// All on one device, which is that of the results: convinit_ext/_engine/_ops.py sorts them.
int32_t device_of(const Op& op, const Tensors& tensors) {
  check(!tensors.empty(), op.name, ": no tensors, so no CUDA device");
  for (const Tensor& tensor : tensors) {
    check(tensor.is_cuda() && tensor.get_device_index() == tensors[0].get_device_index(), op.name,
          ": the tensors of one call are on one CUDA device");
  }
  return tensors[0].get_device_index();
}

// What is found of each tensor, a row of numbers.
template <class Task>
Tensor read_on_device(const Op& op, int32_t device, const Tasks<Task>& tasks, size_t num_tensors,
                      int64_t num_columns) {
  const auto num_rows = static_cast<int64_t>(num_tensors);
  Tensor found = empty(op, {num_rows, num_columns}, ScalarType::Long, device, "results");
  const cuda::Rows rows{static_cast<int64_t*>(found.mutable_data_ptr()), num_rows};
  Upload<Task>(op, device, tasks, rows).launch();
  return found;
}

Tensor digest_cuda(const Tensors& tensors, const Tensor& keys, const Ints& box_starts,
                   const Ints& box_strides) {
  const int32_t device = device_of(kDigest, tensors);
  const DigestTasks tasks = digest_tasks(tensors, keys, box_starts, box_strides);
  return read_on_device(kDigest, device, tasks, tensors.size(), kSums);
}

Tensor compare_cuda(const Tensors& tensors, const Tensor& keys, const Ints& kinds, const Floats& params,
                    const Ints& box_starts, const Ints& box_strides) {
  const int32_t device = device_of(kCompare, tensors);
  const FillTasks tasks = compare_tasks({tensors, keys, kinds, params, box_starts, box_strides});
  return read_on_device(kCompare, device, tasks, tensors.size(), 2);
}

}  // namespace
}  // namespace convinit

STABLE_TORCH_LIBRARY_IMPL(convinit_ext, CUDA, m) {
  m.impl("fill_", TORCH_BOX(&convinit::fill_cuda));
  m.impl("fill_one_", TORCH_BOX(&convinit::fill_one_cuda));
  m.impl("fill_part_", TORCH_BOX(&convinit::fill_part_cuda));
  m.impl("digest", TORCH_BOX(&convinit::digest_cuda));
  m.impl("compare", TORCH_BOX(&convinit::compare_cuda));
}
