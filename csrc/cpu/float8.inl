// float32 lanes to float8, as core/dtype.h does it for one value. Included inside the namespace of an
// instruction set's vector, after its types and operations.

constexpr int kBelowExponent = kFloatMantissa - 16;  // bits of a float's upper half

// Magnitudes as float8, times 2^(kBelowExponent - kMantissa); of a NaN, more than a byte holds. `beyond` is
// the number that stands for all larger ones.
//
// A sum with 2^kDropped times the magnitude's own power of two has no room for more than kMantissa bits after
// the magnitude's leading one: it is rounded, to nearest even, where float8 is. Denormals share the smallest
// normal number's power. The sum's lower half counts steps of float8 and its upper half is an exponent: the
// float8 is both, weighted and added. kOffset is for the exponent's bias. A minimum or maximum with a NaN is
// its second argument: the power becomes infinite, while what it is added to is a number.
template <int kMantissa, int kBias>
CONVINIT_HD U32 scaled_float8(F32 x, float beyond) {
  constexpr int kDropped = kFloatMantissa - kMantissa;
  constexpr int kOffset = (1 << (16 - kMantissa)) - (128 + kDropped - kBias);
  constexpr float kSmallestNormal = 2.0f / (1 << kBias);
  const F32 magnitude = (F32)((U32)x & kFloatMagnitude), limit = splat(beyond);
  const F32 power = (F32)((U32)max(splat(kSmallestNormal), min(limit, magnitude)) & kFloatInfinity);
  const F32 scale = splat(static_cast<float>((1 << kDropped) + kOffset));
  const U32 sum = (U32)fma(power, scale, min(magnitude, limit));
  return add_halves(sum, 1 << (kBelowExponent - kMantissa), 1);
}

// Magnitudes of two vectors, in 16 bits each: pack_halves makes bytes of them, and 0x7f of a NaN.
template <int kMantissa, int kBias>
CONVINIT_HD U32 packed_float8(F32 x, F32 next, float beyond) {
  const U32 first = scaled_float8<kMantissa, kBias>(x, beyond);
  const U32 second = scaled_float8<kMantissa, kBias>(next, beyond);
  return shift_halves(pack_words(first, second), kBelowExponent - kMantissa);
}

template <int kMantissa, int kBias>
CONVINIT_HD void store_float8(void* to, F32 even, F32 odd, F32 next_even, F32 next_odd, float beyond) {
  const U32 evens = packed_float8<kMantissa, kBias>(even, next_even, beyond);
  const U32 odds = packed_float8<kMantissa, kBias>(odd, next_odd, beyond);
  const U32 signs = pack_halves(pack_words((U32)even, (U32)next_even), pack_words((U32)odd, (U32)next_odd));
  store_bytes(to, pack_halves(evens, odds) | (signs & 0x80808080u));
}
CONVINIT_HD void store(Float8E4M3* to, F32 even, F32 odd, F32 next_even, F32 next_odd) {
  store_float8<3, 7>(to, even, odd, next_even, next_odd, 448.0f);
}
CONVINIT_HD void store(Float8E5M2* to, F32 even, F32 odd, F32 next_even, F32 next_odd) {
  store_float8<2, 15>(to, even, odd, next_even, next_odd, 65536.0f);  // rounds to infinity
}
