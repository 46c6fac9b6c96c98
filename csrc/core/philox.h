// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11), a pure function of
// block and key. Counter: words 0 and 1 are the block's index, words 2 and 3 the stream; see
// docs/value-contract.md, section 2.
#pragma once

#include "core/lanes.h"
#include "core/task.h"

namespace convinit {
namespace CONVINIT_LANES {

constexpr uint32_t kMultiplier0 = 0xD2511F53u;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u;
constexpr uint32_t kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

// Output words of a group of blocks.
struct Words {
  Word w0, w1, w2, w3;
};

// Everything in ten rounds that does not depend on the low half of the block index: the round keys, and what
// is left of rounds one and two, where three of the four counter words are the same for 2^32 blocks in a row.
struct RoundKeys {
  SameWord key0[kRounds];
  SameWord key1[kRounds];
  SamePair last_keys;    // both keys of the last round, two to a lane
  SameWord round1_xor2;  // what round one xors into word 2
  SameWord round2_xor0;  // likewise round two, words 0 and 2, and its word 3
  SameWord round2_xor2;
  SameWord round2_word3;
};

CONVINIT_HD uint32_t low_half(uint64_t x) { return static_cast<uint32_t>(x); }
CONVINIT_HD uint32_t high_half(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

CONVINIT_HD RoundKeys make_round_keys(const Key& key, uint32_t block_high) {
  uint32_t key0[kRounds], key1[kRounds];
  key0[0] = low_half(key.key);
  key1[0] = high_half(key.key);
  for (int round = 1; round < kRounds; ++round) {
    key0[round] = key0[round - 1] + kWeyl0;
    key1[round] = key1[round - 1] + kWeyl1;
  }
  const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * low_half(key.stream);
  const uint32_t word0 = high_half(product1) ^ block_high ^ key0[0];
  const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * word0;
  RoundKeys keys;
  for (int round = 0; round < kRounds; ++round) {
    keys.key0[round] = same_word(key0[round]);
    keys.key1[round] = same_word(key1[round]);
  }
  keys.last_keys = same_pair(key0[kRounds - 1], key1[kRounds - 1]);
  keys.round1_xor2 = same_word(high_half(key.stream) ^ key1[0]);
  keys.round2_xor0 = same_word(low_half(product1) ^ key0[1]);
  keys.round2_xor2 = same_word(high_half(product0) ^ key1[1]);
  keys.round2_word3 = same_word(low_half(product0));
  return keys;
}

CONVINIT_HD Words philox_round(const Words& in, SameWord key0, SameWord key1) {
  const Product product0 = multiply_wide(in.w0, kMultiplier0);
  const Product product1 = multiply_wide(in.w2, kMultiplier1);
  return {xor3(high_word(product1), in.w1, word(key0)), low_word(product1),
          xor3(high_word(product0), in.w3, word(key1)), low_word(product0)};
}

// What round one multiplies: the low halves of the indices of a group's blocks, see counters().
CONVINIT_HD Product first_product(Word block_low) { return multiply_wide(block_low, kMultiplier0); }

// State of the group of blocks whose indices have the low halves of that product, and the keys' high half,
// before the last round.
CONVINIT_HD Words before_last_round(const RoundKeys& keys, Product product0) {
  const Word word2 = high_word(product0) ^ word(keys.round1_xor2);
  const Product product1 = multiply_wide(word2, kMultiplier1);
  Words words{high_word(product1) ^ word(keys.round2_xor0), low_word(product1),
              low_word(product0) ^ word(keys.round2_xor2), word(keys.round2_word3)};
  CONVINIT_UNROLL
  for (int round = 2; round < kRounds - 1; ++round) {
    words = philox_round(words, keys.key0[round], keys.key1[round]);
  }
  return words;
}

CONVINIT_HD Words philox(const RoundKeys& keys, Product first) {
  return philox_round(before_last_round(keys, first), keys.key0[kRounds - 1], keys.key1[kRounds - 1]);
}

#ifdef CONVINIT_SCALAR_LANES
CONVINIT_HD Words philox(const RoundKeys& keys, Word block_low) {
  return philox(keys, first_product(block_low));
}
#endif

// The same words two to a lane: 0 and 2, and 1 and 3 (the first of a pair in the low half). Packing them
// inside the last round is cheaper than after it.
struct WordPairs {
  U64 even, odd;
};

CONVINIT_HD WordPairs philox_pairs(const RoundKeys& keys, Product first) {
  const Words in = before_last_round(keys, first);
  const Product product0 = multiply_wide(in.w0, kMultiplier0);
  const Product product1 = multiply_wide(in.w2, kMultiplier1);
  return {xor3(join_high(product1, product0), join(in.w1, in.w3), pair(keys.last_keys)),
          join(low_word(product1), low_word(product0))};
}

#ifdef CONVINIT_JOINS_UPPER_BYTES
// The same without each word's lowest byte, which is zero.
CONVINIT_HD WordPairs philox_upper_pairs(const RoundKeys& keys, Product first) {
  constexpr uint64_t kUpperBytes = 0xffffff00ffffff00u;
  const Words in = before_last_round(keys, first);
  const Product product0 = multiply_wide(in.w0, kMultiplier0);
  const Product product1 = multiply_wide(in.w2, kMultiplier1);
  return {
      xor3(join_high_upper(product1, product0), join_upper(in.w1, in.w3), pair(keys.last_keys & kUpperBytes)),
      join_upper(low_word(product1), low_word(product0))};
}
#endif

}  // namespace CONVINIT_LANES
}  // namespace convinit
