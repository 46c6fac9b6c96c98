// See tasks.h.
#include "torch/tasks.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>

#include "cpu/fill.h"
#include "cpu/float_environment.h"

namespace convinit {
namespace {

using torch::headeronly::ScalarType;

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float8_e4m3fn:
      return DType::kFloat8E4M3;
    case ScalarType::Float8_e5m2:
      return DType::kFloat8E5M2;
    default:
      check(false,
            "fill_: unsupported dtype; accepted are float32, float64, float16, bfloat16, float8_e4m3fn and "
            "float8_e5m2");
  }
  return DType::kFloat32;
}

// Few devices, so a list of them is searched from end to end.
Tasks& tasks_on(std::vector<DeviceTasks>& devices, const Tensor& tensor, size_t capacity) {
  check(tensor.is_cpu() || tensor.is_cuda(), "fill_: unsupported device; accepted are CPU and CUDA");
  const int32_t device = tensor.is_cpu() ? kCpu : tensor.get_device_index();
  for (DeviceTasks& known : devices) {
    if (known.device == device) return known.tasks;
  }
  devices.push_back({device, Tasks(capacity)});
  return devices.back().tasks;
}

}  // namespace

void Tasks::add(const Tensor& tensor, const int64_t* key, int64_t kind, const double* params, int64_t start,
                const std::vector<int64_t>& index_strides, Access access) {
  const DType dtype = dtype_of(tensor);
  const Distribution distribution = distribution_of(kind, params, dtype);
  if (tensor.numel() == 0) return;
  std::vector<Dim> dims = make_dims(tensor, index_strides);
  if (access == kWrite) check_no_overlap(dims);
  void* data = access == kRead ? const_cast<void*>(tensor.const_data_ptr()) : tensor.mutable_data_ptr();
  check(data != nullptr, "fill_: the tensor's storage holds no memory (it was resized to nothing)");
  dims_.push_back(std::move(dims));  // moving a vector keeps its elements where they are
  tasks_.push_back({data, start, dims_.back().data(), static_cast<int32_t>(dims_.back().size()), dtype,
                    Key{static_cast<uint64_t>(key[0]), static_cast<uint64_t>(key[1])}, distribution});
}

void Tasks::run_on_cpu() const {
  if (empty()) return;
  const DefaultFloatEnvironment environment;
  fill(data(), size(), torch::stable::get_num_threads(), run_on_torch_threads);
}

void check_lengths(const ListArguments& given) {
  const size_t num_tensors = given.tensors.size();
  check(given.kinds.size() == num_tensors && given.params.size() == num_tensors * kParams,
        "fill_: one kind and four params for each of ", num_tensors, " tensors");
}

std::vector<DeviceTasks> tasks_of(const ListArguments& given) {
  const size_t num_tensors = given.tensors.size();
  check_lengths(given);
  const DefaultFloatEnvironment environment;
  const int64_t* key = keys_of(given.keys, num_tensors);
  BoxReader boxes(given.box_starts, given.box_strides, given.tensors);
  std::vector<DeviceTasks> devices;
  for (size_t t = 0; t < num_tensors; ++t) {
    const Tensor& tensor = given.tensors[t];
    tasks_on(devices, tensor, num_tensors)
        .add(tensor, key + 2 * t, given.kinds[t], &given.params[t * kParams], boxes.start(t),
             boxes.next_strides(tensor));
  }
  return devices;
}

ReadTasks read_tasks_of(const ListArguments& given) {
  const size_t num_tensors = given.tensors.size();
  check_lengths(given);
  const DefaultFloatEnvironment environment;
  const int64_t* key = keys_of(given.keys, num_tensors);
  BoxReader boxes(given.box_starts, given.box_strides, given.tensors);
  ReadTasks read{Tasks(num_tensors), {}};
  for (size_t t = 0; t < num_tensors; ++t) {
    const std::vector<int64_t> strides = boxes.next_strides(given.tensors[t]);
    if (given.tensors[t].numel() == 0) continue;
    read.tasks.add(given.tensors[t], key + 2 * t, given.kinds[t], &given.params[t * kParams], boxes.start(t),
                   strides, Tasks::kRead);
    read.owners.push_back(static_cast<int64_t>(t));
  }
  return read;
}

Tasks tasks_of(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams],
               int64_t start, const std::vector<int64_t>& index_strides) {
  check(start >= 0 && static_cast<int64_t>(index_strides.size()) == tensor.dim() &&
            std::all_of(index_strides.begin(), index_strides.end(), [](int64_t x) { return x >= 0; }),
        "fill_: a box has a start and one stride for each dimension, none of them negative");
  const DefaultFloatEnvironment environment;
  Tasks tasks(1);
  tasks.add(tensor, keys_of(key, 1), kind, params, start, index_strides);
  return tasks;
}

Tasks tasks_of(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams]) {
  return tasks_of(tensor, key, kind, params, 0, row_major(tensor));
}

}  // namespace convinit
