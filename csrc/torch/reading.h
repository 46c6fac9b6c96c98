// The ops that read tensors and write none: digests, and comparison with what a fill would write.
#pragma once

#include <vector>

#include "torch/tasks.h"

namespace convinit {

// An int64 tensor of (number of tensors, kSums): the sums of docs/fingerprint.md. On the CPU.
Tensor digest_on_cpu(const std::vector<Tensor>& tensors, const Tensor& keys,
                     const std::vector<int64_t>& box_starts, const std::vector<int64_t>& box_strides);

// An int64 tensor of (number of tensors, 2): how many elements differ from what the list op would write, and
// the linear index of the first, -1 where all are equal. On the CPU.
Tensor compare_on_cpu(const ListArguments& arguments);

}  // namespace convinit
