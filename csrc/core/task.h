// What is done with one tensor, as plain data: it passes between the layers, and to a GPU. No functions, so
// that every instruction set can share these types.
#pragma once

#include <cstdint>

namespace convinit {

// Layer key, docs/value-contract.md section 1: Philox key and counter words 2 and 3.
struct Key {
  uint64_t key;
  uint64_t stream;
};

enum class DType : int32_t { kFloat32, kFloat64, kFloat16, kBFloat16, kFloat8E4M3, kFloat8E5M2 };
constexpr int kNumDTypes = 6;

enum class Kind : int32_t { kConstant, kUniform, kNormal, kTruncatedNormal };
constexpr int kNumKinds = 4;

// A distribution ready for the formulas (core/prepare.h makes it). The meaning of the fields depends on the
// kind:
//   constant           value
//   uniform            low, span = high - low, last = the largest value allowed
//   normal             mean, std
//   truncated normal   mean, std (negative: values are those of -z), low, high to clamp to;
//                      offset + slope * (word - center) = 1 - 2 P, near 0 at `center`, the word nearest to
//                      the median (offset_if_less: distribution.h); lower + span * word and upper + span *
//                      (last word - word) = P and 1 - P, times 2^exponent; where the interval is narrow:
//                      value = low + span * x, x = u + warp * u (1 - u)
template <class Real>
struct Parameters {
  Real value;
  Real mean, std;
  Real low, high, span, last;
  Real lower, upper;
  Real exponent;      // a whole number
  uint32_t far_tail;  // whether a probability may lie below what the near quantile covers
  Real slope, offset, offset_if_less;
  uint64_t center;
  Real warp;
  uint32_t narrow;
};

struct Distribution {
  Kind kind;
  Parameters<float> single;
  Parameters<double> real;
};

// A dimension of the tensor: `index_stride` is its step in the logical tensor's row-major linear index,
// `data_stride` its step in memory, both in elements.
struct Dim {
  int64_t size;
  int64_t data_stride;
  int64_t index_stride;
};

// Dimensions are ordered by index stride, largest first; none has size 1, and neighbours are merged where
// they can be.
struct FillTask {
  void* data;
  int64_t start;  // linear index of the first element
  const Dim* dims;
  int32_t num_dims;
  DType dtype;
  Key key;
  Distribution distribution;
};

// A tensor to digest: its memory, and which part of a logical tensor it is.
struct DigestTask {
  const void* data;
  int64_t start;
  const Dim* dims;
  int32_t num_dims;
  int32_t item_size;  // bytes of an element: 1, 2, 4 or 8
  Key key;
};

}  // namespace convinit
