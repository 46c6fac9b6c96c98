// See tasks.h.
#include "tasks.h"

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

// Whether two positions of the tensor are one place in memory. Dimensions whose strides do not nest are rare:
// those are decided by marking every place.
bool overlaps(std::vector<Dim> dims) {
  std::sort(dims.begin(), dims.end(),
            [](const Dim& a, const Dim& b) { return a.data_stride < b.data_stride; });
  int64_t extent = 1, elements = 1;
  bool nested = true;
  for (const Dim& dim : dims) {
    if (dim.data_stride == 0) return true;
    nested = nested && dim.data_stride >= extent;
    extent += (dim.size - 1) * dim.data_stride;
    elements *= dim.size;
  }
  if (nested) return false;
  std::vector<bool> taken(extent);
  for (int64_t i = 0; i < elements; ++i) {
    int64_t rest = i, place = 0;
    for (const Dim& dim : dims) {
      place += rest % dim.size * dim.data_stride;
      rest /= dim.size;
    }
    if (taken[place]) return true;
    taken[place] = true;
  }
  return false;
}

// Row-major strides of the tensor's own shape: its index map when it is the whole logical tensor.
std::vector<int64_t> row_major(const Tensor& tensor) {
  std::vector<int64_t> strides(tensor.dim());
  int64_t step = 1;
  for (int64_t d = tensor.dim() - 1; d >= 0; --d) {
    strides[d] = step;
    step *= tensor.size(d);
  }
  return strides;
}

// The order and the merging that fill_task.h promises.
std::vector<Dim> make_dims(const Tensor& tensor, const std::vector<int64_t>& index_strides) {
  std::vector<Dim> dims;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) dims.push_back({tensor.size(d), tensor.stride(d), index_strides[d]});
  }
  std::stable_sort(dims.begin(), dims.end(),
                   [](const Dim& a, const Dim& b) { return a.index_stride > b.index_stride; });
  std::vector<Dim> merged;
  for (const Dim& dim : dims) {
    if (!merged.empty() && merged.back().data_stride == dim.data_stride * dim.size &&
        merged.back().index_stride == dim.index_stride * dim.size) {
      merged.back() = {merged.back().size * dim.size, dim.data_stride, dim.index_stride};
    } else {
      merged.push_back(dim);
    }
  }
  return merged;
}

const int64_t* keys_of(const Tensor& keys, size_t num_tensors) {
  check(keys.scalar_type() == ScalarType::Long && keys.is_cpu() && keys.is_contiguous() &&
            keys.numel() == static_cast<int64_t>(2 * num_tensors),
        "fill_: keys is a contiguous int64 tensor on the CPU, two numbers for each of ", num_tensors,
        " tensor(s)");
  return static_cast<const int64_t*>(keys.const_data_ptr());
}

// Index strides of tensor after tensor, from the flat list; each tensor's own where there is no list.
class BoxReader {
 public:
  BoxReader(const std::vector<int64_t>& starts, const std::vector<int64_t>& strides,
            const std::vector<Tensor>& tensors)
      : starts_(starts), strides_(strides) {
    size_t dims = 0;
    for (const Tensor& tensor : tensors) dims += tensor.dim();
    check(starts.empty() ? strides.empty() : starts.size() == tensors.size() && strides.size() == dims,
          "fill_: boxes are either left out or given for every tensor and dimension");
    const auto negative = [](int64_t x) { return x < 0; };
    check(std::none_of(starts.begin(), starts.end(), negative) &&
              std::none_of(strides.begin(), strides.end(), negative),
          "fill_: a box has a negative start or stride");
  }

  int64_t start(size_t t) const { return starts_.empty() ? 0 : starts_[t]; }

  std::vector<int64_t> next_strides(const Tensor& tensor) {
    if (starts_.empty()) return row_major(tensor);
    const auto first = strides_.begin() + static_cast<int64_t>(next_dim_);
    next_dim_ += tensor.dim();
    return {first, first + tensor.dim()};
  }

 private:
  const std::vector<int64_t>& starts_;
  const std::vector<int64_t>& strides_;
  size_t next_dim_ = 0;
};

void run_on_torch_threads(int64_t num_workers, const std::function<void()>& worker) {
  torch::stable::parallel_for(0, num_workers, 1, [&](int64_t begin, int64_t end) {
    if (begin < end) worker();
  });
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
                const std::vector<int64_t>& index_strides) {
  const DType dtype = dtype_of(tensor);
  const Distribution distribution = distribution_of(kind, params, dtype);
  if (tensor.numel() == 0) return;
  std::vector<Dim> dims = make_dims(tensor, index_strides);
  check(!overlaps(dims),
        "unsupported operation: more than one element of the written-to tensor refers to a single memory "
        "location. "
        "Please clone() the tensor before performing the operation.");
  void* data = tensor.mutable_data_ptr();
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

std::vector<DeviceTasks> tasks_of(const ListArguments& given) {
  const size_t num_tensors = given.tensors.size();
  check(given.kinds.size() == num_tensors && given.params.size() == num_tensors * kParams,
        "fill_: one kind and four params for each of ", num_tensors, " tensors");
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

Tasks tasks_of(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams]) {
  const DefaultFloatEnvironment environment;
  Tasks tasks(1);
  tasks.add(tensor, keys_of(key, 1), kind, params, 0, row_major(tensor));
  return tasks;
}

}  // namespace convinit
