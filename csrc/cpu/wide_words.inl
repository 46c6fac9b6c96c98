// Words of Philox that sit in the low halves of 64-bit lanes, the high halves arbitrary, so that one widening
// multiply reads a word and leaves two. Included after cpu/simd_x4.inl where a vector's multiply does that.

using vector::join;
using vector::join_high;
using vector::multiply_wide;

using Word = U64;
using Product = U64;
using SameWord = vector::U64;
using SamePair = vector::U64;
CONVINIT_HD SameWord same_word(uint32_t x) { return vector::splat(static_cast<uint64_t>(x)); }
CONVINIT_HD SamePair same_pair(uint32_t low, uint32_t high) {
  return vector::splat(low | static_cast<uint64_t>(high) << 32);
}
CONVINIT_HD Word word(SameWord x) { return everywhere(x); }
CONVINIT_HD U64 pair(SamePair x) { return everywhere(x); }
CONVINIT_HD Word word(uint32_t x) { return word(same_word(x)); }
CONVINIT_HD Word low_word(U64 product) { return product; }
CONVINIT_HD Word high_word(U64 product) { return product >> 32; }
template <class Vector>
CONVINIT_HD X2<Vector> multiply_wide(X2<Vector> a, uint32_t m) {
  return {multiply_wide(a.x, m), multiply_wide(a.y, m)};
}
template <class Vector>
CONVINIT_HD X2<Vector> join(X2<Vector> low, X2<Vector> high) {
  return {join(low.x, high.x), join(low.y, high.y)};
}
template <class Vector>
CONVINIT_HD X2<Vector> join_high(X2<Vector> low, X2<Vector> high) {
  return {join_high(low.x, high.x), join_high(low.y, high.y)};
}
CONVINIT_HD U64 counters(uint32_t first) {
  constexpr uint32_t kStep = vector::kBlocks;
  return {{vector::counters(first), vector::counters(first + kStep)},
          {vector::counters(first + 2 * kStep), vector::counters(first + 3 * kStep)}};
}

// Counters that are kBlocks further on and their products with m: a sum takes less than a product.
CONVINIT_HD U64 next_product(U64* /*counters*/, U64 product, uint32_t m) {
  return product + everywhere(vector::splat(uint64_t{m} * kBlocks));
}

// A digest's words, two to a lane, times its weights: the lower halves as they are loaded, and once more with
// the upper halves moved down, and the weights of those.
CONVINIT_HD vector::U64 products(vector::U64 words, vector::U64 weights, vector::U64 next_weights) {
  return vector::multiply_lower(words, weights) + vector::multiply_lower(words >> 32, next_weights);
}
CONVINIT_HD vector::U64 products(vector::U64 words, const uint32_t* weights) {
  return products(words, load(weights), load(weights + kNextWeights));
}

#ifdef CONVINIT_JOINS_UPPER_BYTES
using vector::join_high_upper;
using vector::join_upper;
template <class Vector>
CONVINIT_HD X2<Vector> join_upper(X2<Vector> low, X2<Vector> high) {
  return {join_upper(low.x, high.x), join_upper(low.y, high.y)};
}
template <class Vector>
CONVINIT_HD X2<Vector> join_high_upper(X2<Vector> low, X2<Vector> high) {
  return {join_high_upper(low.x, high.x), join_high_upper(low.y, high.y)};
}
#endif
