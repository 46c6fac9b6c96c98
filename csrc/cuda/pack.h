// Host only: fill tasks to the task list that the device reads (cuda/task_list.h), their work measured out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/distribution.h"
#include "core/dtype.h"
#include "cuda/convert.h"
#include "cuda/pack_list.h"

namespace convinit {
namespace cuda {

// How work is measured out; a test has other numbers, to see it all with little work.
struct Measure {
  int64_t most_rounds = 16;            // of items in a unit: enough that finding its task costs little
  int64_t units_wanted = 4096;         // so that a GPU's blocks finish nearly together
  int64_t whole_task_items = 1 << 21;  // 32 MiB: enough for a long visit of each block
};

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

// At least one dimension, the last one innermost in the index.
static inline std::vector<Dim> index_dims(const FillTask& task) {
  if (task.num_dims == 0) return {{1, 1, 1}};
  return {task.dims, task.dims + task.num_dims};
}

// The same of elements that are numbered as they lie in memory.
static inline std::vector<Dim> memory_dims(const FillTask& task) {
  std::vector<Dim> dims = index_dims(task);
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

// What is done with the values: a constant's are the same at any index, but a comparison tells the index.
enum class Deed { kFill, kCompare };

static inline Packed pack_one(const FillTask& fill, Deed deed) {
  const int64_t size = scalar::item_size(fill.dtype), per_vector = kVectorBytes / size;
  const bool constant = fill.distribution.kind == Kind::kConstant, anywhere = constant && deed == Deed::kFill;
  const std::vector<Dim> dims = anywhere ? memory_dims(fill) : index_dims(fill);
  const int64_t place = static_cast<int64_t>(reinterpret_cast<uintptr_t>(fill.data) / size);
  Packed packed{};
  Task* task = &packed.task;
  task->data = static_cast<char*>(fill.data);
  task->start = anywhere ? place % per_vector : fill.start;
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
    packed.digits = set_segments(task, dims, per_vector);
  }
  return packed;
}

// Units of about as many bytes each; a segment may be several vectors.
static inline int64_t units_of(Task* task, bool whole, int64_t rounds) {
  const int64_t vectors = std::max<int64_t>(1, task->segment * scalar::item_size(task->dtype) / kVectorBytes);
  const int64_t items = kUnitItems * std::max<int64_t>(1, rounds / vectors);
  task->unit_items = whole ? kWhole : static_cast<int32_t>(items);
  return std::max<int64_t>(1, ceil_div(task->num_items, whole ? kUnitItems : items));
}

static inline PackedList<Task> pack_list(const FillTask* fills, int64_t num_fills,
                                         const Measure& measure = Measure(), Deed deed = Deed::kFill) {
  PackedList<Task> list;
  int64_t bytes = 0;
  for (int64_t t = 0; t < num_fills; ++t) {
    Packed packed = pack_one(fills[t], deed);
    list.add(packed.task, packed.digits);
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

// A list to be compared, with the row of each task's result.
static inline PackedList<Task> pack_compare_list(const FillTask* fills, const int64_t* rows,
                                                 int64_t num_fills, const Measure& measure = Measure()) {
  PackedList<Task> list = pack_list(fills, num_fills, measure, Deed::kCompare);
  for (int64_t t = 0; t < num_fills; ++t) list.tasks[t].row = static_cast<int32_t>(rows[t]);
  return list;
}

// What image_size is at most, without packing.
static inline int64_t largest_image(const FillTask* fills, int64_t num_fills) {
  int64_t num_digits = 0;
  for (int64_t t = 0; t < num_fills; ++t) num_digits += most_digits(fills[t].num_dims);
  return image_size<Task>(num_fills, num_digits);
}

}  // namespace cuda
}  // namespace convinit
