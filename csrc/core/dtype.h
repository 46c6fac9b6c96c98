// The types of elements: their sizes, and the small floats by hand: float32 rounded to nearest, ties to even,
// as 16 or 8 bits.
#pragma once

#include "core/lanes.h"
#include "core/task.h"

namespace convinit {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
struct Float8E4M3 {  // float8_e4m3fn: no infinity, NaN is all ones (Micikevicius et al. 2022)
  uint8_t bits;
};
struct Float8E5M2 {
  uint8_t bits;
};

// The precision that elements are computed in, and how many of them a Philox block makes.
template <class Element>
struct Computed {
  using Real = float;
  static constexpr int kPerBlock = 4;
};
template <>
struct Computed<double> {
  using Real = double;
  static constexpr int kPerBlock = 2;
};

namespace CONVINIT_LANES {

// In bytes.
CONVINIT_HD int64_t item_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2:
      break;
  }
  return 1;
}

constexpr int kFloatMantissa = 23;
constexpr uint32_t kFloatInfinity = 0x7f800000u;
constexpr uint32_t kFloatMagnitude = 0x7fffffffu;

CONVINIT_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// bfloat16 is the upper half of a float32: adding just under half a unit, or half where the kept part is odd,
// carries into it. A NaN keeps its upper half and stays one.
CONVINIT_HD BFloat16 to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>((x == x ? rounded : bits | 0x00400000u) >> 16)};
}

// What to subtract where a float32's exponent is to be counted from another bias.
CONVINIT_HD constexpr uint32_t rebias(int bias) {
  return static_cast<uint32_t>(127 - bias) << kFloatMantissa;
}

// A magnitude, as float32 bits, to a format of fewer bits: what is `overflow` or more becomes `largest`.
template <int kMantissa, int kBias>
CONVINIT_HD uint32_t rounded_magnitude(uint32_t magnitude, uint32_t overflow, uint32_t largest,
                                       uint32_t nan) {
  constexpr int kDropped = kFloatMantissa - kMantissa;
  constexpr uint32_t kNormal = rebias(kBias) + (1u << kFloatMantissa);
  // Below it, values are multiples of 2^(1 - bias - mantissa): a sum with 2^23 times that rounds to a
  // multiple.
  constexpr uint32_t kShift = kNormal + (static_cast<uint32_t>(kDropped) << kFloatMantissa);
  if (magnitude > kFloatInfinity) return nan;
  if (magnitude >= overflow) return largest;
  if (magnitude < kNormal) {
    float absolute, shift;
    memcpy(&absolute, &magnitude, sizeof absolute);
    memcpy(&shift, &kShift, sizeof shift);
    return bits_of(absolute + shift) - kShift;
  }
  const uint32_t odd = (magnitude >> kDropped) & 1u;
  return (magnitude + ((1u << (kDropped - 1)) - 1u) + odd - rebias(kBias)) >> kDropped;
}

// Each overflows halfway from its largest number to what would be the next. e4m3fn saturates, infinities too,
// as GPUs do and PyTorch from 2.13 on (before, what overflows was NaN on its CPU); the others have
// infinities. A NaN keeps its sign.
constexpr uint32_t kHalfOverflow = 0x477ff000u;  // 65520
constexpr uint32_t kE4M3Overflow = 0x43e80000u;  // 464
constexpr uint32_t kE5M2Overflow = 0x47700000u;  // 61440

CONVINIT_HD Half to_half(float x) {
  const uint32_t sign = (bits_of(x) >> 16) & 0x8000u, magnitude = bits_of(x) & kFloatMagnitude;
  return {
      static_cast<uint16_t>(sign | rounded_magnitude<10, 15>(magnitude, kHalfOverflow, 0x7c00u, 0x7e00u))};
}
CONVINIT_HD Float8E4M3 to_float8_e4m3(float x) {
  const uint32_t sign = (bits_of(x) >> 24) & 0x80u, magnitude = bits_of(x) & kFloatMagnitude;
  return {static_cast<uint8_t>(sign | rounded_magnitude<3, 7>(magnitude, kE4M3Overflow, 0x7eu, 0x7fu))};
}
CONVINIT_HD Float8E5M2 to_float8_e5m2(float x) {
  const uint32_t sign = (bits_of(x) >> 24) & 0x80u, magnitude = bits_of(x) & kFloatMagnitude;
  return {static_cast<uint8_t>(sign | rounded_magnitude<2, 15>(magnitude, kE5M2Overflow, 0x7cu, 0x7fu))};
}

// One name for all of them.
CONVINIT_HD void convert(float value, float* to) { *to = value; }
CONVINIT_HD void convert(double value, double* to) { *to = value; }
CONVINIT_HD void convert(float value, Half* to) { *to = to_half(value); }
CONVINIT_HD void convert(float value, BFloat16* to) { *to = to_bfloat16(value); }
CONVINIT_HD void convert(float value, Float8E4M3* to) { *to = to_float8_e4m3(value); }
CONVINIT_HD void convert(float value, Float8E5M2* to) { *to = to_float8_e5m2(value); }

}  // namespace CONVINIT_LANES
}  // namespace convinit
