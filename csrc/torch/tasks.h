// Tensors to tasks, with every check before the first write: all that the CPU's and CUDA's ops share.
#pragma once

// The oldest torch this extension runs on, said once, before any of its headers. The ops are written against
// torch's stable ABI, so that one build serves that release and all later ones.
#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 11) << 48))
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "torch/arguments.h"

namespace convinit {

using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;
using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;

// Tasks, and the dimensions they point to.
template <class Task>
struct Tasks {
  explicit Tasks(size_t capacity) {
    dims.reserve(capacity);
    list.reserve(capacity);
  }

  void add(Task task, std::vector<Dim> own_dims) {
    dims.push_back(std::move(own_dims));  // moving a vector keeps its elements where they are
    task.dims = dims.back().data();
    task.num_dims = static_cast<int32_t>(dims.back().size());
    list.push_back(task);
  }

  int64_t size() const { return static_cast<int64_t>(list.size()); }

  std::vector<std::vector<Dim>> dims;
  std::vector<Task> list;
  Ints rows;  // where tensors are read: each task's row of the results, which is its tensor's number
};
using FillTasks = Tasks<FillTask>;
using DigestTasks = Tasks<DigestTask>;

// What the list ops are given: keys, kinds and params are two numbers, one and four for each tensor. Boxes
// are left out, or a start for each tensor, and a stride for each of its dimensions, tensor after tensor.
struct FillList {
  const Tensors& tensors;
  const Tensor& keys;
  const Ints& kinds;
  const Floats& params;
  const Ints& box_starts;
  const Ints& box_strides;
};

constexpr int32_t kCpu = -1;

struct DeviceTasks {
  int32_t device;  // a CUDA device's index, or kCpu
  FillTasks tasks;
};

// Throws unless all elements of a tensor lie in its storage, which may have been resized.
void check_memory(const char* op, const Tensor& tensor, const void* data);

// One list for each device among the tensors.
std::vector<DeviceTasks> fill_tasks(const FillList& given);

// For one tensor, a part of a logical one or the whole: no lists to pass, which is most of a small fill's
// time.
FillTasks fill_tasks(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams],
                     int64_t start, const Ints& index_strides);
FillTasks fill_tasks(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams]);

// Of the tensors that have elements, which are only read, whatever their devices.
FillTasks compare_tasks(const FillList& given);
DigestTasks digest_tasks(const Tensors& tensors, const Tensor& keys, const Ints& box_starts,
                         const Ints& box_strides);

void run_on_torch_threads(int64_t num_workers, const std::function<void()>& worker);
void fill_on_cpu(const FillTasks& tasks);

}  // namespace convinit
