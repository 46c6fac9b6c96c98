// See tasks.h.
#include "torch/tasks.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>

#include "cpu/engine.h"
#include "cpu/float_environment.h"

namespace convinit {
namespace {

using torch::headeronly::ScalarType;

#ifdef CONVINIT_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

constexpr const char* kNoMemory = "the tensor's storage holds no memory (it was resized to nothing)";

// Of torch's code for a dtype.
std::optional<DType> supported(int32_t code) {
  static const std::array<std::pair<int32_t, DType>, 6> codes{
      {{aoti_torch_dtype_float32(), DType::kFloat32},
       {aoti_torch_dtype_float64(), DType::kFloat64},
       {aoti_torch_dtype_float16(), DType::kFloat16},
       {aoti_torch_dtype_bfloat16(), DType::kBFloat16},
       {aoti_torch_dtype_float8_e4m3fn(), DType::kFloat8E4M3},
       {aoti_torch_dtype_float8_e5m2(), DType::kFloat8E5M2}}};
  for (const auto& [known, dtype] : codes) {
    if (known == code) return dtype;
  }
  return std::nullopt;
}

DType dtype_of(const char* op, const Tensor& tensor) {
  int32_t code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &code));
  const std::optional<DType> dtype = supported(code);
  check(dtype.has_value(), op,
        ": unsupported dtype; accepted are float32, float64, float16, bfloat16, float8_e4m3fn and "
        "float8_e5m2");
  return *dtype;
}

// Sums of products of sizes and strides, which may be anything that a caller says.
using Wide = __int128;

constexpr Wide kIndexEnd = (Wide{1} << 63) - (Wide{1} << 34);  // to the end of a run of 2^32 blocks

// How many bytes of its storage a tensor with elements needs, from the beginning on, and how many there are.
struct Reach {
  Wide needed;
  int64_t held;
};

Reach reach_of(AtenTensorHandle tensor) {
  int64_t dims = 0, offset = 0, held = 0;
  int64_t *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(tensor, &dims));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor, &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor, &strides));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor, &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor, &held));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(tensor, &offset));
  Wide end = Wide{offset} + 1;
  for (int64_t d = 0; d < dims; ++d) end += Wide{sizes[d] - 1} * strides[d];
  return {end * static_cast<Wide>(aoti_torch_dtype_element_size(dtype)), held};
}

// That the indices of a tensor's elements in the logical one can be counted, in units of so many bytes.
void check_indices(const char* op, const Tensor& tensor, int64_t start, const Ints& index_strides,
                   int64_t unit) {
  Wide end = Wide{start} + 1;
  for (int64_t d = 0; d < tensor.dim(); ++d) end += Wide{tensor.size(d) - 1} * index_strides[d];
  check(end * unit <= kIndexEnd, op,
        ": a box goes on to indices that cannot be counted; accepted are less than ",
        static_cast<int64_t>(kIndexEnd / unit));
}

const int64_t* checked_keys(const char* op, const Tensor& keys, size_t num_tensors) {
  check(keys.scalar_type() == ScalarType::Long && keys.is_cpu() && keys.is_contiguous() &&
            keys.numel() == static_cast<int64_t>(2 * num_tensors),
        op, ": keys is a contiguous int64 tensor on the CPU, two numbers for each of ", num_tensors,
        " tensor(s)");
  if (num_tensors == 0) return nullptr;
  const void* data = keys.const_data_ptr();
  check_memory(op, keys, data);
  return static_cast<const int64_t*>(data);
}

Key make_key(const int64_t* numbers) {
  return {static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1])};
}

bool any_negative(const Ints& numbers) {
  return std::any_of(numbers.begin(), numbers.end(), [](int64_t x) { return x < 0; });
}

void check_boxes(const char* op, const Tensors& tensors, const Ints& starts, const Ints& strides) {
  size_t dims = 0;
  for (const Tensor& tensor : tensors) dims += tensor.dim();
  check(starts.empty() ? strides.empty() : starts.size() == tensors.size() && strides.size() == dims, op,
        ": boxes are either left out or given for every tensor and dimension");
  check(!any_negative(starts) && !any_negative(strides), op, ": a box has a negative start or stride");
}

// Row-major strides of the tensor's own shape: its index map when it is the whole logical tensor.
Ints row_major(const Tensor& tensor) {
  Ints strides(tensor.dim());
  int64_t step = 1;
  for (int64_t d = tensor.dim() - 1; d >= 0; --d) {
    strides[d] = step;
    step *= tensor.size(d);
  }
  return strides;
}

// In the order, and merged, as task.h promises.
std::vector<Dim> make_dims(const Tensor& tensor, const Ints& index_strides) {
  std::vector<Dim> dims;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) dims.push_back({tensor.size(d), tensor.stride(d), index_strides[d]});
  }
  return merged(std::move(dims));
}

// Calls visit(number, key, start, index strides) for each tensor of a list.
template <class Visit>
void for_each_tensor(const char* op, const Tensors& tensors, const Tensor& keys, const Ints& box_starts,
                     const Ints& box_strides, Visit visit) {
  const DefaultFloatEnvironment environment;
  const int64_t* key = checked_keys(op, keys, tensors.size());
  check_boxes(op, tensors, box_starts, box_strides);
  auto strides = box_strides.begin();
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (box_starts.empty()) {
      visit(t, make_key(key + 2 * t), 0, row_major(tensors[t]));
    } else {
      visit(t, make_key(key + 2 * t), box_starts[t], Ints(strides, strides + tensors[t].dim()));
      strides += tensors[t].dim();
    }
  }
}

void check_lengths(const char* op, const FillList& given) {
  const size_t num_tensors = given.tensors.size();
  check(given.kinds.size() == num_tensors && given.params.size() == num_tensors * kParams, op,
        ": one kind and four params for each of ", num_tensors, " tensors");
}

enum class Access { kRead, kWrite };

// Checks everything about one tensor; nothing is written before all tensors have been added.
void add_fill(const char* op, const Tensor& tensor, const Key& key, int64_t kind, const double* params,
              int64_t start, const Ints& index_strides, Access access, FillTasks* tasks) {
  const DType dtype = dtype_of(op, tensor);
  const Distribution distribution = distribution_of(kind, params, dtype);
  if (tensor.numel() == 0) return;
  check_indices(op, tensor, start, index_strides, 1);
  void* data =
      access == Access::kRead ? const_cast<void*>(tensor.const_data_ptr()) : tensor.mutable_data_ptr();
  check_memory(op, tensor, data);
  std::vector<Dim> dims = make_dims(tensor, index_strides);
  if (access == Access::kWrite) check_no_overlap(dims);  // which takes memory for each place of the storage
  tasks->add({data, start, nullptr, 0, dtype, key, distribution}, std::move(dims));
}

// An element of up to eight bytes is one item, a larger one several of eight.
void add_digest(const Tensor& tensor, const Key& key, int64_t start, const Ints& index_strides,
                DigestTasks* tasks) {
  check_memory("digest", tensor, tensor.const_data_ptr());
  check_indices("digest", tensor, start, index_strides, static_cast<int64_t>(tensor.element_size()));
  const auto size = static_cast<int64_t>(tensor.element_size()), items = size > 8 ? size / 8 : 1;
  std::vector<Dim> dims = make_dims(tensor, index_strides);
  if (items > 1) {
    for (Dim& dim : dims) dim = {dim.size, dim.data_stride * items, dim.index_stride * items};
    dims.push_back({items, 1, 1});
    dims = merged(std::move(dims));
  }
  tasks->add({tensor.const_data_ptr(), start * items, nullptr, 0, static_cast<int32_t>(size / items), key},
             std::move(dims));
}

// Few devices, so a list of them is searched from end to end.
FillTasks& tasks_on(std::vector<DeviceTasks>& devices, const Tensor& tensor, size_t capacity) {
  check(tensor.is_cpu() || tensor.is_cuda(), "fill_: unsupported device; accepted are CPU and CUDA");
  const int32_t device = tensor.is_cpu() ? kCpu : tensor.get_device_index();
  for (DeviceTasks& known : devices) {
    if (known.device == device) return known.tasks;
  }
  devices.push_back({device, FillTasks(capacity)});
  return devices.back().tasks;
}

}  // namespace

bool is_dense(void* tensor, bool any_dtype, bool any_strides) {
  const auto handle = reinterpret_cast<AtenTensorHandle>(&tensor);  // an at::Tensor is this one pointer
  int32_t device = 0, layout = 0, dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle, &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(handle, &layout));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &dtype));
  static const int32_t cpu = aoti_torch_device_type_cpu(), cuda = aoti_torch_device_type_cuda();
  static const int32_t strided = aoti_torch_layout_strided();
  if ((device != cpu && (device != cuda || !kHasCuda)) || layout != strided) return false;
  if (!any_dtype && !supported(dtype)) return false;
  int64_t numel = 0;
  bool contiguous = false;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(handle, &numel));
  TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(handle, &contiguous));
  if (numel == 0 || !(contiguous || any_strides)) return false;
  const Reach reach = reach_of(handle);
  return reach.needed <= reach.held;
}

void fill_small(void* memory, const Key& key, int64_t kind, const double* params, int64_t start,
                const Ints* index_strides) {
  AtenTensorHandle own = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(reinterpret_cast<AtenTensorHandle>(&memory), &own));
  const Tensor tensor(own);
  void* data = tensor.mutable_data_ptr();
  check(data != nullptr, kNoMemory);
  const DType dtype = dtype_of("fill_", tensor);
  const DefaultFloatEnvironment environment;
  const Distribution distribution = distribution_of(kind, params, dtype);
  const auto fill_dims = [&](const Dim* dims, size_t num_dims) {
    const FillTask task{data, start, dims, static_cast<int32_t>(num_dims), dtype, key, distribution};
    fill(&task, 1, 1, [](int64_t, const std::function<void()>& worker) { worker(); });
  };
  if (index_strides == nullptr) {
    const Dim dim{tensor.numel(), 1, 1};
    return fill_dims(&dim, 1);
  }
  check(static_cast<int64_t>(index_strides->size()) == tensor.dim(), "fill_: a box with ",
        index_strides->size(), " strides for a tensor of ", tensor.dim(), " dimensions");
  const std::vector<Dim> dims = make_dims(tensor, *index_strides);
  check_no_overlap(dims);
  fill_dims(dims.data(), dims.size());
}

void check_memory(const char* op, const Tensor& tensor, const void* data) {
  check(data != nullptr, op, ": ", kNoMemory);
  const Reach reach = reach_of(tensor.get());
  check(reach.needed <= reach.held, op, ": the tensor's storage of ", reach.held,
        " bytes ends before the tensor does (it was resized)");
}

std::vector<DeviceTasks> fill_tasks(const FillList& given) {
  check_lengths("fill_", given);
  std::vector<DeviceTasks> devices;
  for_each_tensor("fill_", given.tensors, given.keys, given.box_starts, given.box_strides,
                  [&](size_t t, const Key& key, int64_t start, const Ints& strides) {
                    const Tensor& tensor = given.tensors[t];
                    add_fill("fill_", tensor, key, given.kinds[t], &given.params[t * kParams], start, strides,
                             Access::kWrite, &tasks_on(devices, tensor, given.tensors.size()));
                  });
  return devices;
}

FillTasks fill_tasks(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams],
                     int64_t start, const Ints& index_strides) {
  check(start >= 0 && static_cast<int64_t>(index_strides.size()) == tensor.dim() &&
            !any_negative(index_strides),
        "fill_: a box has a start and one stride for each dimension, none of them negative");
  const DefaultFloatEnvironment environment;
  FillTasks tasks(1);
  add_fill("fill_", tensor, make_key(checked_keys("fill_", key, 1)), kind, params, start, index_strides,
           Access::kWrite, &tasks);
  return tasks;
}

FillTasks fill_tasks(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams]) {
  return fill_tasks(tensor, key, kind, params, 0, row_major(tensor));
}

FillTasks compare_tasks(const FillList& given) {
  check_lengths("compare", given);
  FillTasks tasks(given.tensors.size());
  for_each_tensor("compare", given.tensors, given.keys, given.box_starts, given.box_strides,
                  [&](size_t t, const Key& key, int64_t start, const Ints& strides) {
                    if (given.tensors[t].numel() == 0) return;
                    add_fill("compare", given.tensors[t], key, given.kinds[t], &given.params[t * kParams],
                             start, strides, Access::kRead, &tasks);
                    tasks.rows.push_back(static_cast<int64_t>(t));
                  });
  return tasks;
}

DigestTasks digest_tasks(const Tensors& tensors, const Tensor& keys, const Ints& box_starts,
                         const Ints& box_strides) {
  DigestTasks tasks(tensors.size());
  for_each_tensor("digest", tensors, keys, box_starts, box_strides,
                  [&](size_t t, const Key& key, int64_t start, const Ints& strides) {
                    if (tensors[t].numel() == 0) return;
                    add_digest(tensors[t], key, start, strides, &tasks);
                    tasks.rows.push_back(static_cast<int64_t>(t));
                  });
  return tasks;
}

// A forked child has none of its parent's threads, and OpenMP would wait for them for ever.
static std::atomic<bool> is_forked_child{false};
[[maybe_unused]] static const int kForkIsWatched =
    pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });

void run_on_torch_threads(int64_t num_workers, const std::function<void()>& worker) {
  if (is_forked_child) return worker();
  torch::stable::parallel_for(0, num_workers, 1, [&](int64_t begin, int64_t end) {
    if (begin < end) worker();
  });
}

void fill_on_cpu(const FillTasks& tasks) {
  if (tasks.list.empty()) return;
  const DefaultFloatEnvironment environment;
  fill(tasks.list.data(), tasks.size(), torch::stable::get_num_threads(), run_on_torch_threads);
}

}  // namespace convinit
