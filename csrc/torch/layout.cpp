// See layout.h.
#include "torch/layout.h"

#include <algorithm>

#include "torch/arguments.h"

namespace convinit {
namespace {

// Dimensions whose strides do not nest are rare: those are decided by marking every place.
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

}  // namespace

std::vector<Dim> merged(std::vector<Dim> dims) {
  std::stable_sort(dims.begin(), dims.end(),
                   [](const Dim& a, const Dim& b) { return a.index_stride > b.index_stride; });
  std::vector<Dim> found;
  for (const Dim& dim : dims) {
    if (!found.empty() && found.back().data_stride == dim.data_stride * dim.size &&
        found.back().index_stride == dim.index_stride * dim.size) {
      found.back() = {found.back().size * dim.size, dim.data_stride, dim.index_stride};
    } else {
      found.push_back(dim);
    }
  }
  return found;
}

void check_no_overlap(const std::vector<Dim>& dims) {
  check(!overlaps(dims),
        "unsupported operation: more than one element of the written-to tensor refers to a single memory "
        "location. "
        "Please clone() the tensor before performing the operation.");
}

}  // namespace convinit
