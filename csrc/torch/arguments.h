// What a call says of a distribution and of a tensor's dimensions, checked. Knows no torch, as python.cpp may
// know none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "core/task.h"

namespace convinit {

constexpr size_t kParams = 4;  // of a distribution, padded with zeros

// STD_TORCH_CHECK without the source file's path in the message: users read these.
template <class... Parts>
void check(bool condition, const Parts&... message) {
  if (condition) return;
  std::ostringstream text;
  (text << ... << message);
  throw std::runtime_error(text.str());
}

Distribution distribution_of(int64_t kind, const double* params, DType dtype);

// In the order, and merged, as task.h promises.
std::vector<Dim> merged(std::vector<Dim> dims);

// Whether a tensor has elements, on a device that is filled and of a dtype that is, without gaps, and its
// storage memory for all of them. It is not nested, and given as Tensor._cdata has it.
bool is_dense(void* tensor, bool any_dtype, bool any_strides);

// A tensor with memory on the CPU, given as for is_dense, is filled on this thread, past PyTorch's
// dispatcher, which takes several times as long as a small fill. The caller (convinit_ext/_engine/_ops.py)
// has made sure that nothing would have come between. Without index strides it is contiguous, a run of the
// logical tensor's elements.
void fill_small(void* tensor, const Key& key, int64_t kind, const double* params, int64_t start,
                const std::vector<int64_t>* index_strides);

// Throws where two positions of the tensor are one place in memory.
void check_no_overlap(const std::vector<Dim>& dims);

}  // namespace convinit
