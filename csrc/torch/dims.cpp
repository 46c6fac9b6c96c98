// See dims.h.
#include "torch/dims.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>

#include "torch/arguments.h"

namespace convinit {

using torch::headeronly::ScalarType;

std::vector<int64_t> row_major(const Tensor& tensor) {
  std::vector<int64_t> strides(tensor.dim());
  int64_t step = 1;
  for (int64_t d = tensor.dim() - 1; d >= 0; --d) {
    strides[d] = step;
    step *= tensor.size(d);
  }
  return strides;
}

std::vector<Dim> make_dims(const Tensor& tensor, const std::vector<int64_t>& index_strides) {
  std::vector<Dim> dims;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) dims.push_back({tensor.size(d), tensor.stride(d), index_strides[d]});
  }
  return merged(std::move(dims));
}

Items items_of(const Tensor& tensor, int64_t start, const std::vector<int64_t>& index_strides) {
  const auto size = static_cast<int64_t>(tensor.element_size());
  std::vector<Dim> dims = make_dims(tensor, index_strides);
  if (size <= 8) return {std::move(dims), start, size};
  const int64_t per_element = size / 8;
  for (Dim& dim : dims) dim = {dim.size, dim.data_stride * per_element, dim.index_stride * per_element};
  dims.push_back({per_element, 1, 1});
  return {merged(std::move(dims)), start * per_element, 8};
}

const int64_t* keys_of(const Tensor& keys, size_t num_tensors) {
  check(keys.scalar_type() == ScalarType::Long && keys.is_cpu() && keys.is_contiguous() &&
            keys.numel() == static_cast<int64_t>(2 * num_tensors),
        "fill_: keys is a contiguous int64 tensor on the CPU, two numbers for each of ", num_tensors,
        " tensor(s)");
  return static_cast<const int64_t*>(keys.const_data_ptr());
}

BoxReader::BoxReader(const std::vector<int64_t>& starts, const std::vector<int64_t>& strides,
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

std::vector<int64_t> BoxReader::next_strides(const Tensor& tensor) {
  if (starts_.empty()) return row_major(tensor);
  const auto first = strides_.begin() + static_cast<int64_t>(next_dim_);
  next_dim_ += tensor.dim();
  return {first, first + tensor.dim()};
}

void run_on_torch_threads(int64_t num_workers, const std::function<void()>& worker) {
  torch::stable::parallel_for(0, num_workers, 1, [&](int64_t begin, int64_t end) {
    if (begin < end) worker();
  });
}

}  // namespace convinit
