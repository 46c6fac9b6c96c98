// What an instruction set provides: functions that write the values of consecutive linear indices to
// consecutive memory or hold them against it, and one that reads words for a digest. And which one is used:
// the best that this machine has, or the one that was forced.
#pragma once

#include <string>
#include <vector>

#include "core/task.h"
#include "cpu/ahead.h"

namespace convinit {

// Writes the values at linear indices [start, start + count) to `out`. Any start, any count >= 0.
using GenerateFunction = void (*)(const Distribution& distribution, const Key& key, int64_t start,
                                  int64_t count, void* out);

// How many of the values that GenerateFunction writes are in memory already, bit for bit, before the first
// group that has one that is not: `count` if all are. Null where every loop's code twice is too much: of
// values that take long to make, and for instruction sets that few machines end with.
using MatchFunction = int64_t (*)(const Distribution& distribution, const Key& key, int64_t start,
                                  int64_t count, const void* memory);

// Adds the products of 32-bit words, which may lie anywhere, and weights to four sums: docs/fingerprint.md,
// section 4. `weights` is where the first word's weight for the first sum is in the table; `kNextWeights`
// words further on is the next word's, for loads as well aligned. As many bytes as are read are prefetched.
constexpr int64_t kNextWeights = 1088;
using DigestFunction = void (*)(const uint32_t* weights, const char* words, int64_t count, Ahead* ahead,
                                uint64_t* sums);

// Adds products to a strip, a matrix of kStripColumns columns in row-major order: c(i, j) += a(i, k) b(k, j),
// each by one fma after the other, from the first of the terms k to the last. b is a strip of `num_terms`
// rows, and a(i, k) lies i * row_step + k * term_step further on than a.
constexpr int64_t kStripColumns = 24;
using MultiplyFunction = void (*)(const double* a, int64_t row_step, int64_t term_step, const double* b,
                                  double* c, int64_t num_rows, int64_t num_terms);

struct Functions {
  GenerateFunction generate;
  MatchFunction match;
};

struct FunctionTable {
  const char* isa;
  DigestFunction digest;
  MultiplyFunction multiply;
  Functions functions[kNumKinds][kNumDTypes];
};

extern const FunctionTable kPortableTable;
#if defined(__x86_64__)
extern const FunctionTable kSse2Table;
extern const FunctionTable kAvx2Table;
extern const FunctionTable kAvx512Table;
#elif defined(__aarch64__)
extern const FunctionTable kNeonTable;
#endif

// Tables this machine can run, slowest first.
std::vector<const FunctionTable*> available_tables();

const FunctionTable& current_table();

// A uniform's span so small that the vectors' loops, which scale it, might not be exact is for the portable
// one. One of zero is exact.
constexpr double kSmallestScaledSpan64 = 0x1p-90;

inline const Functions& functions_of(const FunctionTable& best, const FillTask& task) {
  const double span = task.distribution.real.span;
  const bool is_tiny =
      task.distribution.kind == Kind::kUniform && span != 0 && !(span >= kSmallestScaledSpan64);
  const FunctionTable& table = is_tiny ? kPortableTable : best;
  return table.functions[static_cast<int>(task.distribution.kind)][static_cast<int>(task.dtype)];
}

// Throws std::invalid_argument for a name that is unknown, or that this machine lacks.
void force_isa(const std::string& name);

}  // namespace convinit
