// Tensors to fill tasks, with every check before the first write. All that the CPU's and CUDA's ops share.
#pragma once

#include "torch/torch_abi.h"

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "torch/arguments.h"
#include "torch/dims.h"

namespace convinit {

// The tasks of one device, and the dimensions they point to.
class Tasks {
 public:
  explicit Tasks(size_t capacity) {
    dims_.reserve(capacity);
    tasks_.reserve(capacity);
  }

  enum Access { kRead, kWrite };

  // Checks everything about one tensor; nothing is written before all tensors have been added.
  void add(const Tensor& tensor, const int64_t* key, int64_t kind, const double* params, int64_t start,
           const std::vector<int64_t>& index_strides, Access access = kWrite);

  bool empty() const { return tasks_.empty(); }
  int64_t size() const { return static_cast<int64_t>(tasks_.size()); }
  const FillTask* data() const { return tasks_.data(); }

  // On the CPU, by torch's threads.
  void run_on_cpu() const;

 private:
  std::vector<std::vector<Dim>> dims_;
  std::vector<FillTask> tasks_;
};

// What the list op is given.
struct ListArguments {
  std::vector<Tensor> tensors;
  Tensor keys;
  std::vector<int64_t> kinds;
  std::vector<double> params;
  std::vector<int64_t> box_starts;
  std::vector<int64_t> box_strides;
};

// One kind and four params for each tensor.
void check_lengths(const ListArguments& arguments);

constexpr int32_t kCpu = -1;

struct DeviceTasks {
  int32_t device;  // a CUDA device's index, or kCpu
  Tasks tasks;
};

// One list for each device among the tensors.
std::vector<DeviceTasks> tasks_of(const ListArguments& arguments);

// The list's tensors that have elements, only to be read: one list whatever their devices, and which tensor
// each task is.
struct ReadTasks {
  Tasks tasks;
  std::vector<int64_t> owners;
};

ReadTasks read_tasks_of(const ListArguments& arguments);

// The same for one tensor, a part of a logical one or the whole: no lists to pass, which is most of a small
// fill's time.
Tasks tasks_of(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams],
               int64_t start, const std::vector<int64_t>& index_strides);
Tasks tasks_of(const Tensor& tensor, const Tensor& key, int64_t kind, const double (&params)[kParams]);

}  // namespace convinit
