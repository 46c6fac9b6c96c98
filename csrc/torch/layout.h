// Dimensions of a tensor, their order and their memory. Knows no torch, as python.cpp may know none.
#pragma once

#include <vector>

#include "core/fill_task.h"

namespace convinit {

// In the order, and merged, as fill_task.h promises.
std::vector<Dim> merged(std::vector<Dim> dims);

// Throws where two positions of the tensor are one place in memory.
void check_no_overlap(const std::vector<Dim>& dims);

}  // namespace convinit
