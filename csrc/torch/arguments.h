// What a call says of a distribution, checked. Knows no torch, as python.cpp may know none.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "core/dtype.h"
#include "core/prepare.h"

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

inline double largest(DType dtype) {
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
inline void check_uniform(const double (&params)[kParams], DType dtype) {
  const double limit = largest(dtype);
  check(std::abs(params[0]) <= limit && std::abs(params[1]) <= limit,
        "uniform_ expects bounds that the tensor's dtype can hold, but found from=", params[0],
        ", to=", params[1], ", and its largest number is ", limit);
  check(params[1] - params[0] <= limit || scalar::item_size(dtype) == 1,
        "uniform_ expects to-from <= ", limit,
        ", the largest number of the tensor's dtype, but found to=", params[1], " and from=", params[0]);
}

inline Distribution distribution_of(int64_t kind, const double* given, DType dtype) {
  check(kind >= 0 && kind < kNumKinds, "fill_: unknown kind of distribution ", kind);
  const double params[kParams] = {given[0], given[1], given[2], given[3]};
  if (static_cast<Kind>(kind) == Kind::kUniform) check_uniform(params, dtype);
  return prepare(static_cast<Kind>(kind), params);
}

}  // namespace convinit
