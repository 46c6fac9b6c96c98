// Host only: fill tasks to the task list that the device reads (cuda/task_list.h), their work measured out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/distribution.h"
#include "core/dtype.h"
#include "cuda/convert.h"
#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

constexpr int64_t kLongestSegment = 16;  // elements that a thread makes one after the other
constexpr int64_t kUnitItems = 256;      // of the smallest unit: one for each thread of a block

// How work is measured out; a test has other numbers, to see it all with little work.
struct Measure {
  int64_t most_rounds = 16;            // of items in a unit: enough that finding its task costs little
  int64_t units_wanted = 4096;         // so that a GPU's blocks finish nearly together
  int64_t whole_task_items = 1 << 21;  // 32 MiB: enough for a long visit of each block
};

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The constant as it is stored, as often as it fits.
template <class Out, class Real>
static uint64_t repeated(Real value) {
  constexpr int kCount = sizeof(uint64_t) / sizeof(Out);
  uint64_t pattern;
  Out items[kCount];
  for (Out& item : items) scalar::convert(value, &item);
  std::memcpy(&pattern, items, sizeof pattern);
  return pattern;
}

static inline uint64_t pattern_of(const Distribution& constant, DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return repeated<double>(constant.real.value);
    case DType::kFloat16:
      return repeated<Half>(constant.single.value);
    case DType::kBFloat16:
      return repeated<BFloat16>(constant.single.value);
    case DType::kFloat8E4M3:
      return repeated<Float8E4M3>(constant.single.value);
    case DType::kFloat8E5M2:
      return repeated<Float8E5M2>(constant.single.value);
    case DType::kFloat32:
      break;
  }
  return repeated<float>(constant.single.value);
}

// No value's magnitude is larger: a radius is at most sqrt(-2 ln 2^-33) = 6.77.
static inline float largest_magnitude(const Distribution& d) {
  const Parameters<float>& p = d.single;
  if (d.kind == Kind::kNormal) return std::fabs(p.mean) + 7 * std::fabs(p.std);
  return std::fmax(std::fabs(p.low), std::fabs(d.kind == Kind::kUniform ? p.last : p.high));
}

// Whether the short forms that make vectors, cuda/source.h and cuda/convert.h, are right for every value.
static inline bool vectors_are_exact(const FillTask& task) {
  constexpr float kE5M2Halfway = 61440;  // from the largest number to 2^16
  const Distribution& d = task.distribution;
  if (d.kind == Kind::kConstant || task.dtype == DType::kFloat64) return true;
  if (d.kind == Kind::kUniform && !(d.single.span >= scalar::kSmallestScaledSpan)) return false;
  return task.dtype != DType::kFloat8E5M2 || largest_magnitude(d) < kE5M2Halfway;
}

// At least one dimension, the last one innermost in the index. A constant is the same at any index: its
// elements are numbered as they lie in memory.
static inline std::vector<Dim> index_dims(const FillTask& task) {
  std::vector<Dim> dims(task.dims, task.dims + task.num_dims);
  if (dims.empty()) return {{1, 1, 1}};
  if (task.distribution.kind != Kind::kConstant) return dims;
  std::sort(dims.begin(), dims.end(),
            [](const Dim& a, const Dim& b) { return a.data_stride > b.data_stride; });
  std::vector<Dim> merged;
  for (const Dim& dim : dims) {
    if (!merged.empty() && merged.back().data_stride == dim.data_stride * dim.size) {
      merged.back() = {merged.back().size * dim.size, dim.data_stride, dim.data_stride};
    } else {
      merged.push_back({dim.size, dim.data_stride, dim.data_stride});
    }
  }
  return merged;
}

// A task and its digits, without units.
struct Packed {
  Task task;
  std::vector<Dim> digits;
};

static inline void set_run(Task* task, int64_t per_vector) {
  const int64_t head = std::min(task->size, -task->start & (per_vector - 1));
  task->shape = Shape::kRun;
  task->num_items = (task->size - head) / per_vector;
}

// Neighbours in memory are for neighbouring threads: rows that lie together are cut into vectors, other rows
// as long as a thread goes on.
static inline void set_segments(Packed* packed, std::vector<Dim> dims, int64_t per_vector) {
  const auto nearer = [](const Dim& a, const Dim& b) { return a.data_stride < b.data_stride; };
  const auto aligned = [&](const Dim& dim) { return dim.index_stride % per_vector == 0; };
  Task* task = &packed->task;
  const Dim row = dims.back();
  dims.pop_back();
  std::sort(dims.begin(), dims.end(), nearer);
  int64_t segment = 1, align = 1, before = 0;
  if (row.index_stride == 1 && (dims.empty() || row.data_stride <= dims[0].data_stride)) {
    align = segment = per_vector;
    const bool all_aligned = task->start % align == 0 && std::all_of(dims.begin(), dims.end(), aligned);
    before = all_aligned ? 0 : align - 1;  // at most, from the multiple of align before a row to the row
  } else if (row.index_stride == 1) {
    segment = std::min(kLongestSegment, row.size);
  }
  const Dim digit = {ceil_div(before + row.size, segment), segment * row.data_stride,
                     segment * row.index_stride};
  const auto place = std::lower_bound(dims.begin(), dims.end(), digit, nearer);
  task->segment_digit = static_cast<int32_t>(place - dims.begin());
  dims.insert(place, digit);
  task->shape = Shape::kSegments;
  task->segment = static_cast<int32_t>(segment);
  task->align = static_cast<int32_t>(align);
  task->num_digits = static_cast<int32_t>(dims.size());
  task->num_items = 1;
  for (const Dim& dim : dims) task->num_items *= dim.size;
  packed->digits = std::move(dims);
}

static inline Packed pack_one(const FillTask& fill) {
  const int64_t size = scalar::item_size(fill.dtype), per_vector = kVectorBytes / size;
  const std::vector<Dim> dims = index_dims(fill);
  const bool constant = fill.distribution.kind == Kind::kConstant;
  const int64_t place = static_cast<int64_t>(reinterpret_cast<uintptr_t>(fill.data) / size);
  Packed packed{};
  Task* task = &packed.task;
  task->data = static_cast<char*>(fill.data);
  task->start = constant ? place % per_vector : fill.start;
  task->size = dims.back().size;
  task->data_stride = dims.back().data_stride;
  task->index_stride = dims.back().index_stride;
  task->key = fill.key;
  task->kind = fill.distribution.kind;
  task->dtype = fill.dtype;
  if (constant) {
    task->pattern = pattern_of(fill.distribution, fill.dtype);
  } else if (fill.dtype == DType::kFloat64) {
    task->real = fill.distribution.real;
  } else {
    task->single = fill.distribution.single;
  }
  const bool dense = dims.size() == 1 && task->data_stride == 1 && task->index_stride == 1;
  if (dense && (place - task->start) % per_vector == 0 && vectors_are_exact(fill)) {
    set_run(task, per_vector);
  } else {
    set_segments(&packed, dims, per_vector);
  }
  return packed;
}

// Everything packed, as it is written.
struct PackedList {
  std::vector<Task> tasks;
  std::vector<int64_t> unit_ends;
  std::vector<Dim> digits;
};

// Units of about as many bytes each; a segment may be several vectors.
static inline int64_t units_of(Task* task, bool whole, int64_t rounds) {
  const int64_t vectors = std::max<int64_t>(1, task->segment * scalar::item_size(task->dtype) / kVectorBytes);
  const int64_t items = kUnitItems * std::max<int64_t>(1, rounds / vectors);
  task->unit_items = whole ? kWhole : static_cast<int32_t>(items);
  return std::max<int64_t>(1, ceil_div(task->num_items, whole ? kUnitItems : items));
}

static inline PackedList pack_list(const FillTask* fills, int64_t num_fills,
                                   const Measure& measure = Measure()) {
  PackedList list;
  int64_t bytes = 0;
  for (int64_t t = 0; t < num_fills; ++t) {
    Packed packed = pack_one(fills[t]);
    packed.task.first_digit = static_cast<int32_t>(list.digits.size());
    packed.task.segment_digit += packed.task.first_digit;
    list.digits.insert(list.digits.end(), packed.digits.begin(), packed.digits.end());
    list.tasks.push_back(packed.task);
    bytes += packed.task.num_items *
             std::max<int64_t>(kVectorBytes, packed.task.segment * scalar::item_size(fills[t].dtype));
  }
  const int64_t rounds =
      std::clamp<int64_t>(bytes / (kVectorBytes * kUnitItems * measure.units_wanted), 1, measure.most_rounds);
  int64_t units = 0;
  for (Task& task : list.tasks) {
    units += units_of(&task, num_fills == 1 || task.num_items >= measure.whole_task_items, rounds);
    list.unit_ends.push_back(units);
  }
  return list;
}

template <class Item>
static char* append(char* to, const Item* items, size_t count) {
  if (count > 0) std::memcpy(to, items, count * sizeof(Item));
  return to + count * sizeof(Item);
}

static inline void write_image(const PackedList& list, void* image) {
  const Header header{list.unit_ends.empty() ? 0 : list.unit_ends.back(),
                      static_cast<int32_t>(list.tasks.size()), static_cast<int32_t>(list.digits.size())};
  char* to = append(static_cast<char*>(image), &header, 1);
  to = append(to, list.unit_ends.data(), list.unit_ends.size());
  to = append(to, list.tasks.data(), list.tasks.size());
  append(to, list.digits.data(), list.digits.size());
}

static inline int64_t image_size(const PackedList& list) {
  return static_cast<int64_t>(sizeof(Header) + list.unit_ends.size() * sizeof(int64_t) +
                              list.tasks.size() * sizeof(Task) + list.digits.size() * sizeof(Dim));
}

// What image_size is at most, without packing: no task has more digits than dimensions, or than one.
static inline int64_t largest_image(const FillTask* fills, int64_t num_fills) {
  int64_t num_digits = 0;
  for (int64_t t = 0; t < num_fills; ++t) num_digits += std::max(1, fills[t].num_dims);
  return static_cast<int64_t>(sizeof(Header)) +
         num_fills * static_cast<int64_t>(sizeof(int64_t) + sizeof(Task)) +
         num_digits * static_cast<int64_t>(sizeof(Dim));
}

}  // namespace cuda
}  // namespace convinit
