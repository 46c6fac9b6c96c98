// GPUs that are not there, for csrc/torch/ops_cuda.cpp: torch tells it that some CPU memory is on a CUDA
// device, and the launches run the kernel's body on the host. What happens is logged, in order. Made and run
// by tests/test_cuda_ops.py.
#define USE_CUDA  // shim.h declares aoti_torch_get_current_cuda_stream only then
#include "torch/tasks.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <dlfcn.h>

#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "block_on_cpu.h"
#include "core/digest.h"
#include "cpu/engine.h"
#include "cuda/engine.h"
#include "cuda/fill_body.h"
#include "cuda/task_list_host.h"

namespace {

using torch::stable::Device;

struct State {
  std::map<uintptr_t, std::pair<uintptr_t, int32_t>> memory;  // begin: end and device
  int32_t current_device = 0;
  bool capturing = false;
  int32_t no_memory_on = -1;  // a device
  bool launches_fail = false;
  std::string log;
} state;

template <class... Parts>
void note(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  state.log += text.str() + "\n";
}

int32_t device_at(AtenTensorHandle tensor) {
  void* data = nullptr;
  aoti_torch_get_data_ptr(tensor, &data);
  const auto place = reinterpret_cast<uintptr_t>(data);
  const auto after = state.memory.upper_bound(place);
  if (after == state.memory.begin()) return -1;
  const auto& [end, device] = std::prev(after)->second;
  return place < end ? device : -1;
}

// torch's own, which this file's function of the same name stands in front of.
template <class Function>
Function* original(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

int32_t device_of_stream(convinit::cuda::Stream stream) {
  return static_cast<int32_t>(reinterpret_cast<intptr_t>(stream)) - 100;
}

constexpr uint32_t kBlocks = 3, kThreads = convinit::cuda::kUnitItems;

void run_body(const void* image) {
  for (uint32_t block = 0; block < kBlocks; ++block) {
    for (uint32_t thread = 0; thread < kThreads; ++thread) {
      convinit::cuda::fill_body(image, block, kBlocks, {thread, kThreads});
    }
  }
}

// Where the kernel finds its list; null where the launch fails.
const void* launched(const char* what, const convinit::cuda::Image& image, convinit::cuda::Stream stream) {
  const bool by_value = image.on_device == nullptr;
  note("launch ", what, by_value ? " by value on " : " from memory on ", state.current_device, ", stream of ",
       device_of_stream(stream));
  if (by_value && image.num_bytes > convinit::cuda::kParameterBytes) note("too large for a parameter");
  if (!by_value && std::memcmp(image.on_host, image.on_device, static_cast<size_t>(image.num_bytes)) != 0) {
    note("the upload is not the list");
  }
  if (state.launches_fail) return nullptr;
  return by_value ? image.on_host : image.on_device;
}

constexpr const char* kFailure = "this GPU only pretends";

template <class List>
int64_t write(const List& list, int64_t room, void* image) {
  if (reinterpret_cast<uintptr_t>(image) % 16 != 0) note("the image is not aligned");
  const int64_t num_bytes = write_image(list, image);
  if (num_bytes > room) note("the image is larger than foretold");
  return num_bytes;
}

}  // namespace

// What the test says and asks.
extern "C" {
#define FAKE __attribute__((visibility("default")))
FAKE void fake_reset() { state = State(); }
FAKE void fake_put(uintptr_t data, uintptr_t num_bytes, int32_t device) {
  state.memory[data] = {data + num_bytes, device};
}
FAKE void fake_capture() { state.capturing = true; }
FAKE void fake_no_memory_on(int32_t device) { state.no_memory_on = device; }
FAKE void fake_launches_fail() { state.launches_fail = true; }
FAKE int32_t fake_current_device() { return state.current_device; }
FAKE const char* fake_log() { return state.log.c_str(); }
}

// torch's stable ABI.

AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* type) {
  const bool on_gpu = device_at(tensor) >= 0;
  *type = on_gpu ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* index) {
  *index = device_at(tensor);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
  *stream = reinterpret_cast<void*>(static_cast<intptr_t>(100 + device));
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_create_device_guard(int32_t device, DeviceGuardHandle* guard) {
  *guard = reinterpret_cast<DeviceGuardHandle>(new int32_t(state.current_device));
  state.current_device = device;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle guard) {
  auto* before = reinterpret_cast<int32_t*>(guard);
  state.current_device = *before;
  delete before;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_call_dispatcher(const char* name, const char* overload, StableIValue* stack,
                                     uint64_t version) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  if (std::strcmp(name, "aten::empty") == 0) {
    const auto device = to<std::optional<Device>>(stack[3]);
    const bool pinned = to<std::optional<bool>>(stack[4]).value_or(false);
    const bool on_gpu = device->type() == torch::headeronly::DeviceType::CUDA;
    note(on_gpu ? "device memory on " : "pinned memory on ", on_gpu ? device->index() : state.current_device);
    if (on_gpu ? device->index() == state.no_memory_on : !pinned) return AOTI_TORCH_FAILURE;
    stack[3] = from(std::optional<Device>(Device(torch::headeronly::DeviceType::CPU)));
    stack[4] = from(std::optional<bool>(false));
  } else {
    note(name);
  }
  return original(&torch_call_dispatcher, "torch_call_dispatcher")(name, overload, stack, version);
}

namespace convinit {

// The CPU engine, by the same body.
void fill(const FillTask* tasks, int64_t num_tasks, int64_t, const RunWorkers&) {
  note("cpu");
  std::vector<uint64_t> image(static_cast<size_t>(cuda::image_bytes(tasks, num_tasks)) / sizeof(uint64_t));
  cuda::pack(tasks, nullptr, num_tasks, image.data());
  run_body(image.data());
}

namespace cuda {

int64_t image_bytes(const FillTask* tasks, int64_t num_tasks) {
  return largest_image<DeviceFill>(tasks, num_tasks);
}

int64_t pack(const FillTask* tasks, const int64_t* rows, int64_t num_tasks, void* image) {
  return write(pack_fills(tasks, rows, num_tasks), image_bytes(tasks, num_tasks), image);
}

int64_t image_bytes(const DigestTask* tasks, int64_t num_tasks) {
  return largest_image<DeviceDigest>(tasks, num_tasks);
}

int64_t pack(const DigestTask* tasks, const int64_t* rows, int64_t num_tasks, void* image) {
  return write(pack_digests(tasks, rows, num_tasks), image_bytes(tasks, num_tasks), image);
}

const char* launch_fill(const Image& image, const Rows&, Stream stream) {
  const void* list = launched("fill", image, stream);
  if (list == nullptr) return kFailure;
  run_body(list);
  return nullptr;
}

const char* launch_digest(const Image& image, const Rows& rows, Stream stream) {
  const void* list = launched("digest", image, stream);
  if (list == nullptr) return kFailure;
  std::memset(rows.numbers, 0, static_cast<size_t>(rows.num_rows) * kSums * sizeof(uint64_t));
  digest_on_grid(list, kBlocks, kThreads, reinterpret_cast<uint64_t*>(rows.numbers));
  return nullptr;
}

const char* launch_compare(const Image& image, const Rows& rows, Stream stream) {
  const void* list = launched("compare", image, stream);
  if (list == nullptr) return kFailure;
  for (int64_t i = 0; i < 2 * rows.num_rows; ++i) rows.numbers[i] = -(i % 2);
  compare_on_grid(list, kBlocks, kThreads, reinterpret_cast<uint64_t*>(rows.numbers));
  return nullptr;
}

const char* upload_by_value(const void* image, int64_t num_bytes, void* device_image, Stream stream) {
  if (num_bytes % static_cast<int64_t>(sizeof(uint64_t)) != 0) note("the upload is not of whole words");
  note("upload by value, stream of ", device_of_stream(stream));
  std::memcpy(device_image, image, static_cast<size_t>(num_bytes));
  return nullptr;
}

bool is_capturing(Stream) { return state.capturing; }

}  // namespace cuda
}  // namespace convinit
