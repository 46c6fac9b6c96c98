// Fills everything once under the sanitizers (`make sanitize`): each instruction set, distribution and dtype
// over odd lengths, starts and strides, into memory that ends where the tensor ends. Checks values against
// the portable path's, and that what lies between the elements of a tensor is left alone. Then compares the
// memory with what a fill writes, and takes its digest. Makes matrices orthogonal. Knows nothing of torch.
#include <algorithm>
#include <cfenv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/digest.h"
#include "core/dtype.h"
#include "core/prepare.h"
#include "cpu/engine.h"
#include "cpu/isa.h"
#include "cpu/orthogonal.h"

namespace {

using namespace convinit;  // NOLINT: this is a test of that namespace

constexpr Key kKey{0x0123456789abcdef, 0xfedcba9876543210};
constexpr char kUntouched = 0x5a;
constexpr int64_t kBlocksBorder = int64_t{1}
                                  << 34;  // float32 index at which the low half of a block index wraps

struct Case {
  const char* name;
  int64_t start;
  std::vector<Dim> dims;  // as FillTask wants them
};

std::vector<Case> make_cases() {
  std::vector<Case> cases;
  for (int64_t length : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129}) {
    for (int64_t start : {0, 1, 2, 3, 5, 63}) cases.push_back({"run", start, {{length, 1, 1}}});
  }
  cases.push_back({"run of several pieces", 1, {{20011, 1, 1}}});
  cases.push_back({"scalar", 3, {}});
  cases.push_back({"across the border of 2^32 blocks", kBlocksBorder - 77, {{200, 1, 1}}});
  cases.push_back({"across the border of 2^32 double blocks", kBlocksBorder / 2 - 77, {{200, 1, 1}}});
  cases.push_back({"every third place", 0, {{1001, 3, 1}}});
  cases.push_back({"transposed", 0, {{67, 1, 131}, {131, 67, 1}}});
  cases.push_back({"transposed, several tiles", 0, {{215, 1, 101}, {101, 215, 1}}});
  cases.push_back({"channels last", 0, {{5, 7 * 33, 33 * 7}, {33, 1, 7}, {7, 33, 1}}});
  cases.push_back({"channels last, thin", 0, {{3, 9 * 2, 18}, {2, 1, 9}, {9, 2, 1}}});
  cases.push_back({"columns of a wider matrix", 0, {{50, 40, 13}, {13, 1, 1}}});
  cases.push_back({"part of a larger logical tensor", 1234, {{11, 29, 97}, {29, 1, 1}}});
  cases.push_back({"every second column of it", 6, {{11, 29, 97}, {29, 1, 2}}});
  return cases;
}

std::vector<Distribution> make_distributions() {
  const double all[][4] = {{0.1, 0, 0, 0}, {-0.25, 0.75, 0, 0}, {0.5, 2, 0, 0}, {0, 1, -2, 2}};
  std::vector<Distribution> distributions;
  for (int kind = 0; kind < kNumKinds; ++kind)
    distributions.push_back(prepare(static_cast<Kind>(kind), all[kind]));
  const double tails[][4] = {{0, 1, 5, 6}, {0, 1, -INFINITY, -9}, {0, 1, 30, 31}, {0, 1, 1e12, INFINITY}};
  for (const auto& tail : tails) distributions.push_back(prepare(Kind::kTruncatedNormal, tail));
  return distributions;
}

// Threads that round otherwise: values must not depend on it, nor may it be lost.
void run_on_std_threads(int64_t num_workers, const std::function<void()>& worker) {
  const auto round_upward_and_work = [&worker] {
    std::fesetround(FE_UPWARD);
    worker();
    if (std::fegetround() != FE_UPWARD) std::abort();
  };
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < num_workers; ++i) threads.emplace_back(round_upward_and_work);
  for (std::thread& thread : threads) thread.join();
}

void run_here(int64_t, const std::function<void()>& worker) { worker(); }

int64_t last_of(const std::vector<Dim>& dims, int64_t Dim::* stride) {
  int64_t last = 0;
  for (const Dim& dim : dims) last += (dim.size - 1) * (dim.*stride);
  return last;
}

// Calls visit(place in memory, linear index less start) for every element.
template <class Visit>
void for_each_element(const std::vector<Dim>& dims, Visit visit) {
  int64_t elements = 1;
  for (const Dim& dim : dims) elements *= dim.size;
  for (int64_t i = 0; i < elements; ++i) {
    int64_t place = 0, index = 0, rest = i;
    for (const Dim& dim : dims) {
      place += rest % dim.size * dim.data_stride;
      index += rest % dim.size * dim.index_stride;
      rest /= dim.size;
    }
    visit(place, index);
  }
}

[[noreturn]] void fail(const Case& c, const Distribution& distribution, DType dtype, const char* what) {
  std::printf("%s: %s, kind %d, dtype %d, start %lld: %s\n", current_table().isa, c.name,
              static_cast<int>(distribution.kind), static_cast<int>(dtype), static_cast<long long>(c.start),
              what);
  std::exit(1);
}

// What the tensor's memory must hold afterwards: elements by the portable path, one run over all their
// indices.
std::vector<char> expected_memory(const Case& c, const Distribution& distribution, DType dtype) {
  const int64_t size = scalar::item_size(dtype), count = last_of(c.dims, &Dim::index_stride) + 1;
  std::vector<char> values(count * size), memory((last_of(c.dims, &Dim::data_stride) + 1) * size, kUntouched);
  const auto generate =
      kPortableTable.functions[static_cast<int>(distribution.kind)][static_cast<int>(dtype)].generate;
  generate(distribution, kKey, c.start, count, values.data());
  for_each_element(c.dims, [&](int64_t place, int64_t index) {
    std::memcpy(&memory[place * size], &values[index * size], size);
  });
  return memory;
}

// docs/fingerprint.md byte by byte: a byte's share of a sum is its word's, and the sums are linear.
std::vector<uint64_t> expected_sums(const Case& c, int64_t size, const char* data) {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> words;
    for (int block = 0; block < kTableWords / 4; ++block) {
      const scalar::Words each = scalar::table_block(block);
      words.insert(words.end(), {each.w0, each.w1, each.w2, each.w3});
    }
    return words;
  }();
  std::vector<uint64_t> sums(kSums);
  int64_t chunk = -1;
  scalar::Factors factors{};
  for_each_element(c.dims, [&](int64_t place, int64_t index) {
    for (int64_t byte = 0; byte < size; ++byte) {
      const int64_t at = (c.start + index) * size + byte, column = at % kChunkBytes / 4;
      const uint64_t value = static_cast<uint64_t>(static_cast<unsigned char>(data[place * size + byte]))
                             << (at % 4 * 8);
      if (at / kChunkBytes != chunk) factors = scalar::factors_of(kKey, chunk = at / kChunkBytes);
      for (int a = 0; a < kSums; ++a) sums[a] += factors.of[a] * table[column + a * kTableShift] * value;
    }
  });
  return sums;
}

// After a fill nothing differs, then the last element and one other: of a small tensor each in its turn,
// whatever its place in a vector.
void compare_and_check(const Case& c, const FillTask& task, int64_t num_threads) {
  constexpr int64_t kSmall = 129, kFewPlaces = 997;
  const bool is_each = task.distribution.kind == Kind::kUniform || task.distribution.kind == Kind::kConstant;
  const int64_t size = scalar::item_size(task.dtype);
  char* data = static_cast<char*>(task.data);
  Difference found{};
  compare(&task, 1, num_threads, run_on_std_threads, &found);
  if (found.count != 0 || found.first != -1)
    fail(c, task.distribution, task.dtype, "differs from what it was filled with");
  const int64_t last = last_of(c.dims, &Dim::data_stride), last_index = last_of(c.dims, &Dim::index_stride);
  data[last * size] ^= 1;
  int64_t number = 0;
  for_each_element(c.dims, [&](int64_t place, int64_t index) {
    ++number;
    if (!is_each || (last_index > kSmall && number % kFewPlaces != 1)) return;
    char& changed = data[place * size + number % size];
    changed ^= static_cast<char>(1 << number % 8);
    compare(&task, 1, 1, run_here, &found);
    const bool is_last = place == last,
               is_found = is_last || (found.count == 2 && found.first == c.start + index);
    if (!is_found) fail(c, task.distribution, task.dtype, "two elements differ, and were not found");
    changed ^= static_cast<char>(1 << number % 8);
  });
  compare(&task, 1, num_threads, run_on_std_threads, &found);
  if (found.count != 1 || found.first != c.start + last_index)
    fail(c, task.distribution, task.dtype, "the last element differs, and was not found");
  data[last * size] ^= 1;
}

void digest_and_check(const Case& c, const FillTask& task, int64_t num_threads) {
  std::vector<uint64_t> sums(kSums);
  const DigestTask digest_task{
      task.data, task.start, task.dims, task.num_dims, static_cast<int32_t>(scalar::item_size(task.dtype)),
      kKey};
  digest(&digest_task, 1, num_threads, run_on_std_threads, sums.data());
  if (sums != expected_sums(c, scalar::item_size(task.dtype), static_cast<const char*>(task.data)))
    fail(c, task.distribution, task.dtype, "wrong digest");
}

void fill_and_check(const Case& c, const Distribution& distribution, DType dtype, int64_t num_threads) {
  const std::vector<char> expected = expected_memory(c, distribution, dtype);
  // A block of its own, off the alignment of vectors, whose end is the tensor's: the sanitizer sees one byte
  // too many.
  const int64_t offset = scalar::item_size(dtype);
  const std::unique_ptr<char[]> memory(new char[offset + expected.size()]);
  char* data = memory.get() + offset;
  std::memset(data, kUntouched, expected.size());
  FillTask task{data, c.start, c.dims.data(), static_cast<int32_t>(c.dims.size()), dtype, kKey, distribution};
  fill(&task, 1, num_threads, run_on_std_threads);
  if (std::string(last_isa()) != current_table().isa)
    fail(c, distribution, dtype, "another instruction set ran");
  if (std::memcmp(data, expected.data(), expected.size()) != 0) fail(c, distribution, dtype, "wrong values");
  compare_and_check(c, task, num_threads);
  // The bytes of a digest are the same for every distribution; one is enough.
  if (distribution.kind == Kind::kUniform) digest_and_check(c, task, num_threads);
}

// All cases as one list of tensors: the split over threads crosses from one to the next.
void fill_list(const std::vector<Case>& cases, const Distribution& distribution, DType dtype) {
  std::vector<std::vector<char>> expected, memory;
  std::vector<FillTask> tasks;
  for (const Case& c : cases) {
    expected.push_back(expected_memory(c, distribution, dtype));
    memory.emplace_back(expected.back().size(), kUntouched);
    tasks.push_back({memory.back().data(), c.start, c.dims.data(), static_cast<int32_t>(c.dims.size()), dtype,
                     kKey, distribution});
  }
  fill(tasks.data(), static_cast<int64_t>(tasks.size()), 3, run_on_std_threads);
  for (size_t i = 0; i < cases.size(); ++i) {
    if (memory[i] != expected[i]) fail(cases[i], distribution, dtype, "wrong values in a list");
  }
}

struct Shape {
  int64_t count, rows, columns;
};

// What becomes of normal values, in memory that ends with the last of them.
std::vector<double> made_orthogonal(const Shape& shape, const FunctionTable& table, int64_t num_threads) {
  const int64_t size = shape.count * shape.rows * shape.columns;
  const std::unique_ptr<double[]> values(new double[size]);
  const double params[] = {0, 1, 0, 0};
  kPortableTable.functions[static_cast<int>(Kind::kNormal)][static_cast<int>(DType::kFloat64)].generate(
      prepare(Kind::kNormal, params), kKey, 0, size, values.get());
  force_isa(table.isa);
  make_orthogonal<double>({values.get(), shape.count, shape.rows, shape.columns}, 0.5, num_threads,
                          run_on_std_threads);
  return {values.get(), values.get() + size};
}

void make_orthogonal_and_check(const FunctionTable& table) {
  const Shape shapes[] = {{1, 1, 1},   {1, 7, 3},  {1, 3, 7},    {1, 25, 49},
                          {3, 30, 26}, {12, 9, 9}, {1, 150, 130}};
  for (const Shape& shape : shapes) {
    const std::vector<double> expected = made_orthogonal(shape, kPortableTable, 1);
    for (int64_t num_threads = 1; num_threads <= 3; ++num_threads) {
      if (made_orthogonal(shape, table, num_threads) == expected) continue;
      std::printf("%s: %lld orthogonal matrices of %lld x %lld: wrong values\n", table.isa,
                  static_cast<long long>(shape.count), static_cast<long long>(shape.rows),
                  static_cast<long long>(shape.columns));
      std::exit(1);
    }
  }
}

}  // namespace

// The instruction sets that the arguments name, or else all.
int main(int num_arguments, char** arguments) {
  const std::vector<std::string> chosen(arguments + 1, arguments + num_arguments);
  const std::vector<Case> cases = make_cases();
  const std::vector<Distribution> distributions = make_distributions();
  int64_t fills = 0;
  for (const FunctionTable* table : available_tables()) {
    if (!chosen.empty() && std::count(chosen.begin(), chosen.end(), table->isa) == 0) continue;
    make_orthogonal_and_check(*table);
    force_isa(table->isa);
    for (int dtype = 0; dtype < kNumDTypes; ++dtype) {
      for (const Distribution& distribution : distributions) {
        for (const Case& c : cases)
          fill_and_check(c, distribution, static_cast<DType>(dtype), 1 + fills++ % 3);
        fill_list(cases, distribution, static_cast<DType>(dtype));
      }
    }
    std::printf("%s: no error in %lld fills\n", table->isa, static_cast<long long>(fills));
  }
}
