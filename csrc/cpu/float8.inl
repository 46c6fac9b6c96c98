// float32 lanes to float8, as core/dtype.h does it for one value. Included inside the namespace of an
// instruction set's vector, after its types; the result is in the low byte of each lane.

template <int kMantissa, int kBias>
CONVINIT_HD U32 rounded_magnitudes(U32 magnitude) {
  constexpr int kDropped = kFloatMantissa - kMantissa;
  constexpr uint32_t kNormal = rebias(kBias) + (1u << kFloatMantissa);
  constexpr uint32_t kShift = kNormal + (static_cast<uint32_t>(kDropped) << kFloatMantissa);
  const U32 shift = (magnitude ^ magnitude) + kShift;
  const U32 denormal = (U32)((F32)magnitude + (F32)shift) - kShift;
  const U32 odd = (magnitude >> kDropped) & 1u;
  const U32 normal = (magnitude + ((1u << (kDropped - 1)) - 1u) + odd - rebias(kBias)) >> kDropped;
  return magnitude < kNormal ? denormal : normal;
}

// `beyond` is what stands for magnitudes from `overflow` on; with its other bits a NaN.
template <int kMantissa, int kBias>
CONVINIT_HD U32 rounded_float8(F32 x, uint32_t overflow, uint32_t beyond) {
  constexpr uint32_t kNaN = 0x7f;
  const U32 magnitude = (U32)x & kFloatMagnitude, sign = ((U32)x >> 24) & 0x80u;
  const U32 special = ((U32)(magnitude > kFloatInfinity) & (kNaN ^ beyond)) | beyond;
  return (magnitude >= overflow ? special : rounded_magnitudes<kMantissa, kBias>(magnitude)) | sign;
}
CONVINIT_HD U32 rounded_to(Float8E4M3, F32 x) { return rounded_float8<3, 7>(x, kE4M3Overflow, 0x7e); }
CONVINIT_HD U32 rounded_to(Float8E5M2, F32 x) { return rounded_float8<2, 15>(x, kE5M2Overflow, 0x7c); }

// Four bytes of each block in the low half of its 64-bit lane.
template <class Float8>
CONVINIT_HD U64 packed_blocks(F32 even, F32 odd) {
  const U64 pairs = (U64)(rounded_to(Float8(), even) | rounded_to(Float8(), odd) << 8);
  return pairs | pairs >> 16;
}
