// CUDA's registration of the ops: device guard, stream, memory for the task list, launch errors. Against
// torch's stable ABI, csrc/cuda/fill.h, digest.h and compare.h, and no CUDA header, so that it compiles
// beside any torch.
#include "torch/torch_abi.h"

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
#include <utility>
#include <vector>

#include "cpu/float_environment.h"
#include "cuda/compare.h"
#include "cuda/digest.h"
#include "cuda/fill.h"
#include "torch/tasks.h"

namespace convinit {
namespace {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::accelerator::DeviceGuard;

// What a launch does, for messages.
struct Deed {
  const char* op;
  const char* verb;
  const char* noun;
};
constexpr Deed kFill{"fill_", "fill", "fill"};
constexpr Deed kDigest{"digest", "digest", "digest"};
constexpr Deed kCompare{"compare", "compare", "comparison"};

void check_cuda(const Deed& deed, const char* error) {
  check(error == nullptr, deed.op, ": CUDA could not launch the ", deed.noun, ": ", error ? error : "");
}

// torch's own errors cross the stable ABI as a source line of its headers; the reason is in its log.
template <class Call>
auto by_torch(const Deed& deed, const std::string& what, Call call) {
  try {
    return call();
  } catch (const std::exception&) {
    throw std::runtime_error(std::string(deed.op) + ": " + what);
  }
}

cuda::Stream current_stream(const Deed& deed, int32_t device) {
  return by_torch(deed, "PyTorch has no current stream for the tensor's CUDA device", [&] {
    cuda::Stream stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    return stream;
  });
}

Tensor empty_on_device(const Deed& deed, int64_t num_bytes, int32_t device) {
  const auto what = std::string("out of memory on the GPU, for the list of what to ") + deed.verb;
  return by_torch(deed, what, [&] {
    return torch::stable::empty({num_bytes}, ScalarType::Byte, std::nullopt,
                                Device(DeviceType::CUDA, device));
  });
}

Tensor empty_pinned(const Deed& deed, int64_t num_bytes) {
  const auto what = std::string("out of page-locked memory, for the list of what to ") + deed.verb;
  return by_torch(deed, what, [&] {
    return torch::stable::empty({num_bytes}, ScalarType::Byte, std::nullopt, Device(DeviceType::CPU), true);
  });
}

// A list of fills, on its way to the device.
struct Fills {
  const Tasks* tasks;

  static constexpr const Deed& kDeed = kFill;
  int64_t image_bytes() const { return cuda::image_bytes(tasks->data(), tasks->size()); }
  int64_t pack(void* image) const { return cuda::pack(tasks->data(), tasks->size(), image); }
  const char* launch(const void* image, int64_t num_bytes, const void* device_image,
                     cuda::Stream stream) const {
    return cuda::launch(image, num_bytes, device_image, stream);
  }
};

// The same of fills whose values are compared with what is there.
struct Comparisons {
  const ReadTasks* read;
  cuda::DifferenceRows rows;

  static constexpr const Deed& kDeed = kCompare;
  int64_t image_bytes() const { return cuda::image_bytes(read->tasks.data(), read->tasks.size()); }
  int64_t pack(void* image) const {
    return cuda::pack_compare(read->tasks.data(), read->owners.data(), read->tasks.size(), image);
  }
  const char* launch(const void* image, int64_t num_bytes, const void* device_image,
                     cuda::Stream stream) const {
    return cuda::launch_compare(image, num_bytes, device_image, rows, stream);
  }
};

// A list of tensors to digest, likewise.
struct Digests {
  std::vector<cuda::DigestInput> inputs;
  cuda::SumRows rows;

  static constexpr const Deed& kDeed = kDigest;
  int64_t size() const { return static_cast<int64_t>(inputs.size()); }
  int64_t image_bytes() const { return cuda::digest_image_bytes(inputs.data(), size()); }
  int64_t pack(void* image) const { return cuda::pack_digest(inputs.data(), size(), image); }
  const char* launch(const void* image, int64_t num_bytes, const void* device_image,
                     cuda::Stream stream) const {
    return cuda::launch_digest(image, num_bytes, device_image, rows, stream);
  }
};

// One device's task list on its way there. Constructing it takes all the memory that the launch needs, so
// that nothing has been written anywhere when there is too little.
//
// Page-locked memory belongs to PyTorch's caching host allocator, which gives it out again only when the
// stream has passed the copy; device memory belongs to its caching allocator, which gives it out again to
// work that comes later on the stream. A graph's replay finds that device memory in the graph's own pool, and
// uploads the list again: by value, since host memory would be gone by then.
template <class List>
class Upload {
 public:
  Upload(int32_t device, List list)
      : device_(device), list_(std::move(list)), stream_(current_stream(List::kDeed, device)) {
    const DeviceGuard guard(device_);
    const int64_t room = list_.image_bytes();
    if (room > cuda::kParameterBytes) {
      on_device_ = empty_on_device(List::kDeed, room, device_);
      if (!cuda::is_capturing(stream_)) pinned_ = empty_pinned(List::kDeed, room);
    }
    if (!pinned_.defined()) unpinned_.resize(room / sizeof(std::max_align_t) + 1);
    const DefaultFloatEnvironment environment;  // constants are rounded
    num_bytes_ = list_.pack(image());
  }

  void launch() {
    const DeviceGuard guard(device_);
    void* const device_image = on_device_.defined() ? on_device_.mutable_data_ptr() : nullptr;
    if (pinned_.defined()) {
      by_torch(List::kDeed,
               std::string("PyTorch could not copy the list of what to ") + List::kDeed.verb + " to the GPU",
               [&] { return torch::stable::copy_(on_device_, pinned_, /*non_blocking=*/true); });
    } else if (on_device_.defined()) {
      check_cuda(List::kDeed, cuda::upload_by_value(image(), num_bytes_, device_image, stream_));
    }
    check_cuda(List::kDeed, list_.launch(image(), num_bytes_, device_image, stream_));
  }

 private:
  void* image() { return pinned_.defined() ? pinned_.mutable_data_ptr() : unpinned_.data(); }

  int32_t device_;
  List list_;
  cuda::Stream stream_;
  int64_t num_bytes_ = 0;
  std::vector<std::max_align_t> unpinned_;
  Tensor pinned_;
  Tensor on_device_;
};

// The GPUs work side by side, and beside the CPU.
void run(const std::vector<DeviceTasks>& lists) {
  std::vector<Upload<Fills>> uploads;
  uploads.reserve(lists.size());
  for (const DeviceTasks& list : lists) {
    if (list.device != kCpu && !list.tasks.empty()) uploads.emplace_back(list.device, Fills{&list.tasks});
  }
  for (Upload<Fills>& upload : uploads) upload.launch();
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
  const Tasks tasks = tasks_of(tensor, key, kind, {p0, p1, p2, p3});
  if (!tasks.empty()) Upload<Fills>(tensor.get_device_index(), {&tasks}).launch();
}

void fill_part_cuda(Tensor tensor, Tensor key, int64_t kind, double p0, double p1, double p2, double p3,
                    int64_t start, std::vector<int64_t> strides) {
  const Tasks tasks = tasks_of(tensor, key, kind, {p0, p1, p2, p3}, start, strides);
  if (!tasks.empty()) Upload<Fills>(tensor.get_device_index(), {&tasks}).launch();
}

// All on one device, which is that of the results: convinit_ext/_engine/_ops.py sorts them.
int32_t device_of(const Deed& deed, const std::vector<Tensor>& tensors) {
  check(!tensors.empty(), deed.op, ": no tensors, so no CUDA device");
  for (const Tensor& tensor : tensors) {
    check(tensor.is_cuda() && tensor.get_device_index() == tensors[0].get_device_index(), deed.op,
          ": the tensors of one call are on one CUDA device");
  }
  return tensors[0].get_device_index();
}

const void* memory_of(const Tensor& tensor) {
  const void* data = tensor.const_data_ptr();
  check(data != nullptr, "digest: the tensor's storage holds no memory (it was resized to nothing)");
  return data;
}

// What is found of each tensor, a row of numbers.
Tensor empty_rows(const Deed& deed, int64_t num_rows, int64_t num_columns, int32_t device) {
  return by_torch(deed, "out of memory on the GPU, for the results", [&] {
    return torch::stable::empty({num_rows, num_columns}, ScalarType::Long, std::nullopt,
                                Device(DeviceType::CUDA, device));
  });
}

Tensor digest_cuda(std::vector<Tensor> tensors, Tensor keys, std::vector<int64_t> box_starts,
                   std::vector<int64_t> box_strides) {
  const int64_t* key = keys_of(keys, tensors.size());
  BoxReader boxes(box_starts, box_strides, tensors);
  const int32_t device = device_of(kDigest, tensors);
  std::vector<Items> items;
  items.reserve(tensors.size());  // the inputs point into it
  Digests list;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const std::vector<int64_t> strides = boxes.next_strides(tensors[t]);
    if (tensors[t].numel() == 0) continue;
    items.push_back(items_of(tensors[t], boxes.start(t), strides));
    const Items& own = items.back();
    list.inputs.push_back({memory_of(tensors[t]),
                           own.start,
                           own.dims.data(),
                           static_cast<int32_t>(own.dims.size()),
                           static_cast<int32_t>(own.size),
                           {static_cast<uint64_t>(key[2 * t]), static_cast<uint64_t>(key[2 * t + 1])},
                           static_cast<int64_t>(t)});
  }
  const auto num_rows = static_cast<int64_t>(tensors.size());
  Tensor sums = empty_rows(kDigest, num_rows, kSums, device);
  list.rows = {static_cast<uint64_t*>(sums.mutable_data_ptr()), num_rows};
  Upload<Digests>(device, std::move(list)).launch();
  return sums;
}

Tensor compare_cuda(std::vector<Tensor> tensors, Tensor keys, std::vector<int64_t> kinds,
                    std::vector<double> params, std::vector<int64_t> box_starts,
                    std::vector<int64_t> box_strides) {
  const int32_t device = device_of(kCompare, tensors);
  const auto num_rows = static_cast<int64_t>(tensors.size());
  const ReadTasks read = read_tasks_of({std::move(tensors), std::move(keys), std::move(kinds),
                                        std::move(params), std::move(box_starts), std::move(box_strides)});
  Tensor found = empty_rows(kCompare, num_rows, 2, device);
  auto* numbers = static_cast<int64_t*>(found.mutable_data_ptr());
  Upload<Comparisons>(device, {&read, {numbers, num_rows}}).launch();
  return found;
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
