// See reading.h.
#include "torch/reading.h"

#include <torch/csrc/stable/ops.h>

#include "cpu/digest.h"
#include "cpu/fill.h"
#include "cpu/float_environment.h"
#include "torch/dims.h"

namespace convinit {
namespace {

// A new int64 tensor of zeros on the CPU, as keys is one.
Tensor zeros(const Tensor& keys, size_t rows, int64_t columns) {
  return torch::stable::new_zeros(keys, {static_cast<int64_t>(rows), columns});
}

template <class Value>
Value* data_of(const Tensor& result) {
  static_assert(sizeof(Value) % sizeof(int64_t) == 0, "made of 64-bit numbers");
  return static_cast<Value*>(result.mutable_data_ptr());
}

const void* memory_of(const Tensor& tensor) {
  check(tensor.is_cpu(), "unsupported device; accepted are CPU tensors");
  const void* data = tensor.const_data_ptr();
  check(data != nullptr, "the tensor's storage holds no memory (it was resized to nothing)");
  return data;
}

}  // namespace

Tensor digest_on_cpu(const std::vector<Tensor>& tensors, const Tensor& keys,
                     const std::vector<int64_t>& box_starts, const std::vector<int64_t>& box_strides) {
  const int64_t* key = keys_of(keys, tensors.size());
  BoxReader boxes(box_starts, box_strides, tensors);
  std::vector<Items> items;
  items.reserve(tensors.size());  // the tasks point into it
  std::vector<DigestTask> tasks;
  std::vector<size_t> owners;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const std::vector<int64_t> strides = boxes.next_strides(tensors[t]);
    if (tensors[t].numel() == 0) continue;
    items.push_back(items_of(tensors[t], boxes.start(t), strides));
    const Items& own = items.back();
    tasks.push_back({memory_of(tensors[t]),
                     {own.start, own.dims.data(), static_cast<int32_t>(own.dims.size()), own.size},
                     {static_cast<uint64_t>(key[2 * t]), static_cast<uint64_t>(key[2 * t + 1])}});
    owners.push_back(t);
  }
  std::vector<uint64_t> sums(tasks.size() * kSums);
  if (!tasks.empty()) {
    digest(tasks.data(), static_cast<int64_t>(tasks.size()), torch::stable::get_num_threads(),
           run_on_torch_threads, sums.data());
  }
  const Tensor result = zeros(keys, tensors.size(), kSums);
  auto* rows = data_of<uint64_t>(result);
  for (size_t i = 0; i < owners.size(); ++i) {
    for (int a = 0; a < kSums; ++a) rows[owners[i] * kSums + a] = sums[i * kSums + a];
  }
  return result;
}

Tensor compare_on_cpu(const ListArguments& given) {
  const size_t num_tensors = given.tensors.size();
  for (const Tensor& tensor : given.tensors) {
    if (tensor.numel() > 0) memory_of(tensor);
  }
  const auto [tasks, owners] = read_tasks_of(given);
  const DefaultFloatEnvironment environment;
  std::vector<Difference> differences(owners.size());
  if (!tasks.empty()) {
    compare(tasks.data(), tasks.size(), torch::stable::get_num_threads(), run_on_torch_threads,
            differences.data());
  }
  const Tensor result = zeros(given.keys, num_tensors, 2);
  auto* rows = data_of<Difference>(result);
  for (size_t t = 0; t < num_tensors; ++t) rows[t] = {0, -1};
  for (size_t i = 0; i < owners.size(); ++i) rows[owners[i]] = differences[i];
  return result;
}

}  // namespace convinit
