// See arguments.h.
#include "torch/arguments.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dtype.h"
#include "core/prepare.h"

namespace convinit {
namespace {

double largest(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return std::numeric_limits<double>::max();
    case DType::kFloat16:
      return 65504;
    case DType::kBFloat16:
      return 0x1.FEp127;
    case DType::kFloat8E4M3:
      return 448;
    case DType::kFloat8E5M2:
      return 57344;
    case DType::kFloat32:
      break;
  }
  return std::numeric_limits<float>::max();
}

// As torch.Tensor.uniform_: the bounds, and their difference, are numbers of the tensor's type. For float8,
// which it does not fill, the difference is one of float32's: it is never rounded to the type.
void check_uniform(const double* params, DType dtype) {
  const double limit = largest(dtype);
  check(std::abs(params[0]) <= limit && std::abs(params[1]) <= limit,
        "uniform_ expects bounds that the tensor's dtype can hold, but found from=", params[0],
        ", to=", params[1], ", and its largest number is ", limit);
  check(params[1] - params[0] <= limit || scalar::item_size(dtype) == 1,
        "uniform_ expects to-from <= ", limit,
        ", the largest number of the tensor's dtype, but found to=", params[1], " and from=", params[0]);
}

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

Distribution distribution_of(int64_t kind, const double* params, DType dtype) {
  check(kind >= 0 && kind < kNumKinds, "fill_: unknown kind of distribution ", kind);
  if (static_cast<Kind>(kind) == Kind::kUniform) check_uniform(params, dtype);
  return prepare(static_cast<Kind>(kind), {params[0], params[1], params[2], params[3]});
}

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
        "location. Please clone() the tensor before performing the operation.");
}

}  // namespace convinit
