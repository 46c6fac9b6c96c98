// What all ops make of the tensors, keys and boxes that they are given: dimensions in index order.
#pragma once

#include "torch/torch_abi.h"

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "torch/layout.h"

namespace convinit {

using torch::stable::Tensor;

// Row-major strides of the tensor's own shape: its index map when it is the whole logical tensor.
std::vector<int64_t> row_major(const Tensor& tensor);

// In the order, and merged, as fill_task.h promises.
std::vector<Dim> make_dims(const Tensor& tensor, const std::vector<int64_t>& index_strides);

// Any element of up to eight bytes is one item, a larger one several of eight.
struct Items {
  std::vector<Dim> dims;
  int64_t start;
  int64_t size;
};

Items items_of(const Tensor& tensor, int64_t start, const std::vector<int64_t>& index_strides);

// Two numbers for each tensor.
const int64_t* keys_of(const Tensor& keys, size_t num_tensors);

// Index strides of tensor after tensor, from the flat list; each tensor's own where there is no list.
class BoxReader {
 public:
  BoxReader(const std::vector<int64_t>& starts, const std::vector<int64_t>& strides,
            const std::vector<Tensor>& tensors);

  int64_t start(size_t t) const { return starts_.empty() ? 0 : starts_[t]; }

  std::vector<int64_t> next_strides(const Tensor& tensor);

 private:
  const std::vector<int64_t>& starts_;
  const std::vector<int64_t>& strides_;
  size_t next_dim_ = 0;
};

void run_on_torch_threads(int64_t num_workers, const std::function<void()>& worker);

}  // namespace convinit
