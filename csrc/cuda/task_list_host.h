// Host only: tasks to the task list that the device reads (task_list.h), their work measured out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/digest.h"
#include "core/distribution.h"
#include "core/dtype.h"
#include "cuda/convert.h"
#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

constexpr int64_t kLongestSegment = 16;  // elements that a thread takes one after the other

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Neighbours in memory are for neighbouring threads: rows that lie together are cut into vectors, other rows
// as long as a thread goes on, and into equal ones of whole blocks where `per_block` is not 0 and the index
// allows. Returns the digits.
static inline std::vector<Dim> set_segments(Elements* task, std::vector<Dim> dims, int64_t per_vector,
                                            int64_t per_block = 0) {
  const auto nearer = [](const Dim& a, const Dim& b) { return a.data_stride < b.data_stride; };
  const auto all_aligned = [&](int64_t to) {
    const auto aligned = [to](const Dim& dim) { return dim.index_stride % to == 0; };
    return task->start % to == 0 && std::all_of(dims.begin(), dims.end(), aligned);
  };
  const Dim row = dims.back();
  dims.pop_back();
  std::sort(dims.begin(), dims.end(), nearer);
  int64_t segment = 1, align = 1, before = 0;
  if (row.index_stride == 1 && (dims.empty() || row.data_stride <= dims[0].data_stride)) {
    align = segment = per_vector;
    if (!all_aligned(align)) before = align - 1;  // at most, from the multiple of align before a row to it
  } else if (row.index_stride == 1) {
    segment = std::min(kLongestSegment, row.size);
    if (per_block > 0 && row.size % per_block == 0 && all_aligned(per_block)) {
      segment -= segment % per_block;
      while (row.size % segment != 0) segment -= per_block;
    }
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
  return dims;
}

// Everything packed, as it is written.
template <class Task>
struct PackedList {
  std::vector<Task> tasks;
  std::vector<int64_t> unit_ends;
  std::vector<Dim> digits;

  // Its units are still to be counted.
  void add(Task task, const std::vector<Dim>& own_digits) {
    task.first_digit = static_cast<int32_t>(digits.size());
    task.segment_digit += task.first_digit;
    digits.insert(digits.end(), own_digits.begin(), own_digits.end());
    tasks.push_back(task);
  }
};

template <class Item>
static char* append(char* to, const Item* items, size_t count) {
  if (count > 0) std::memcpy(to, items, count * sizeof(Item));
  return to + count * sizeof(Item);
}

template <class Task>
static int64_t image_size(int64_t num_tasks, int64_t num_digits) {
  return static_cast<int64_t>(sizeof(Header)) +
         num_tasks * static_cast<int64_t>(sizeof(int64_t) + sizeof(Task)) +
         num_digits * static_cast<int64_t>(sizeof(Dim));
}

// Returns how many bytes it took.
template <class Task>
static int64_t write_image(const PackedList<Task>& list, void* image) {
  const Header header{list.unit_ends.empty() ? 0 : list.unit_ends.back(),
                      static_cast<int32_t>(list.tasks.size()), static_cast<int32_t>(list.digits.size())};
  char* to = append(static_cast<char*>(image), &header, 1);
  to = append(to, list.unit_ends.data(), list.unit_ends.size());
  to = append(to, list.tasks.data(), list.tasks.size());
  return append(to, list.digits.data(), list.digits.size()) - static_cast<char*>(image);
}

// The most that an image of these can take, without packing: no task has more digits than dimensions, or than
// one.
template <class Task, class Given>
static int64_t largest_image(const Given* given, int64_t num_tasks) {
  int64_t num_digits = 0;
  for (int64_t t = 0; t < num_tasks; ++t) num_digits += std::max(1, given[t].num_dims);
  return image_size<Task>(num_tasks, num_digits);
}

// At least one dimension, the last one innermost in the index.
template <class Given>
static std::vector<Dim> index_dims(const Given& given) {
  if (given.num_dims == 0) return {{1, 1, 1}};
  return {given.dims, given.dims + given.num_dims};
}

// Where the elements begin in the index, and how the innermost dimension goes on. Returns whether they are
// consecutive in the index and in memory.
static inline bool set_elements(Elements* task, int64_t start, const std::vector<Dim>& dims) {
  task->start = start;
  task->size = dims.back().size;
  task->data_stride = dims.back().data_stride;
  task->index_stride = dims.back().index_stride;
  return dims.size() == 1 && task->data_stride == 1 && task->index_stride == 1;
}

// Fills

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

// Whether the short forms that make vectors, source.h and convert.h, are right for every value.
static inline bool vectors_are_exact(const FillTask& task) {
  constexpr float kE5M2Halfway = 61440;  // from the largest number to 2^16
  const Distribution& d = task.distribution;
  if (d.kind == Kind::kConstant || task.dtype == DType::kFloat64) return true;
  if (d.kind == Kind::kUniform && !(d.single.span >= scalar::kSmallestScaledSpan)) return false;
  return task.dtype != DType::kFloat8E5M2 || largest_magnitude(d) < kE5M2Halfway;
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

static inline void set_run(DeviceFill* task, int64_t per_vector) {
  const int64_t head = std::min(task->size, -task->start & (per_vector - 1));
  task->shape = Shape::kRun;
  task->num_items = (task->size - head) / per_vector;
}

// Of a task in segments: whether all of them are whole, and of what.
static inline Shape whole_shape(const Elements& task, int64_t place, const std::vector<Dim>& digits,
                                int64_t per_vector, int64_t per_block, bool vectors_are_exact) {
  const auto whole = [&](int64_t in_memory, int64_t in_index) {
    const auto aligned = [=](const Dim& dim) {
      return dim.data_stride % in_memory == 0 && dim.index_stride % in_index == 0;
    };
    return place % in_memory == 0 && task.start % in_index == 0 && task.segment % in_index == 0 &&
           std::all_of(digits.begin(), digits.end(), aligned);
  };
  if (task.index_stride != 1 || task.size % task.segment != 0 || task.num_items >> 32 != 0) return task.shape;
  if (task.segment != per_vector || task.data_stride != 1)
    return whole(1, std::max<int64_t>(per_block, task.align)) ? Shape::kBlocks : task.shape;
  return vectors_are_exact && whole(per_vector, per_vector) ? Shape::kVectors : task.shape;
}

// Of a fill that is done; compared values must tell the index, also of a constant, which is the same at any.
static inline void add_fill(const FillTask& fill, bool is_compared, PackedList<DeviceFill>* list) {
  const int64_t size = scalar::item_size(fill.dtype), per_vector = kVectorBytes / size;
  const bool is_constant = fill.distribution.kind == Kind::kConstant, anywhere = is_constant && !is_compared;
  const std::vector<Dim> dims = anywhere ? memory_dims(fill) : index_dims(fill);
  const int64_t place = static_cast<int64_t>(reinterpret_cast<uintptr_t>(fill.data) / size);
  DeviceFill task{};
  const bool is_run = set_elements(&task, anywhere ? place % per_vector : fill.start, dims);
  task.data = static_cast<char*>(fill.data);
  task.key = fill.key;
  task.kind = fill.distribution.kind;
  task.dtype = fill.dtype;
  if (is_constant) {
    task.pattern = pattern_of(fill.distribution, fill.dtype);
  } else if (fill.dtype == DType::kFloat64) {
    task.real = fill.distribution.real;
  } else {
    task.single = fill.distribution.single;
  }
  if (is_run && (place - task.start) % per_vector == 0 && vectors_are_exact(fill)) {
    set_run(&task, per_vector);
    list->add(task, {});
  } else {
    const bool may_be_whole = fill.distribution.kind != Kind::kTruncatedNormal;
    const int64_t per_block = kVectorBytes / std::max<int64_t>(size, 4);
    const std::vector<Dim> digits = set_segments(&task, dims, per_vector, may_be_whole ? per_block : 0);
    if (may_be_whole)
      task.shape = whole_shape(task, place, digits, per_vector, per_block, vectors_are_exact(fill));
    list->add(task, digits);
  }
}

// Units of about as many bytes each; a segment may be several vectors.
static inline int64_t units_of(DeviceFill* task, bool whole, int64_t rounds) {
  const int64_t vectors = std::max<int64_t>(1, task->segment * scalar::item_size(task->dtype) / kVectorBytes);
  const int64_t items = kUnitItems * std::max<int64_t>(1, rounds / vectors);
  task->unit_items = whole ? kWhole : static_cast<int32_t>(items);
  return std::max<int64_t>(1, ceil_div(task->num_items, whole ? kUnitItems : items));
}

// `rows` has the row of each one's result where they are compared.
static inline PackedList<DeviceFill> pack_fills(const FillTask* fills, const int64_t* rows, int64_t num_fills,
                                                const Measure& measure = Measure()) {
  PackedList<DeviceFill> list;
  int64_t bytes = 0, units = 0;
  for (int64_t t = 0; t < num_fills; ++t) {
    add_fill(fills[t], rows != nullptr, &list);
    DeviceFill& task = list.tasks.back();
    if (rows != nullptr) task.row = static_cast<int32_t>(rows[t]);
    bytes += task.num_items * std::max<int64_t>(kVectorBytes, task.segment * scalar::item_size(task.dtype));
  }
  const int64_t rounds =
      std::clamp<int64_t>(bytes / (kVectorBytes * kUnitItems * measure.units_wanted), 1, measure.most_rounds);
  for (DeviceFill& task : list.tasks) {
    units += units_of(&task, num_fills == 1 || task.num_items >= measure.whole_task_items, rounds);
    list.unit_ends.push_back(units);
  }
  return list;
}

// Digests

// How work is measured out, likewise.
struct DigestMeasure {
  int64_t most_chunks = kMostChunks;  // in a unit: enough that their factors cost little
  int64_t units_wanted = 4096;
};

// The largest power of two, up to the bytes of one load, that a vector's place in memory is a multiple of.
static inline int32_t alignment_of(const void* data, int64_t start) {
  const auto place = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(data)) - static_cast<uint64_t>(start);
  int32_t alignment = kVectorBytes;
  while (place % static_cast<uint64_t>(alignment) != 0) alignment /= 2;
  return alignment;
}

static inline void set_bytes(DeviceDigest* task) {
  const int64_t size = task->item_size;
  task->shape = Shape::kRun;
  task->start *= size;
  task->size *= size;
  task->item_size = 1;
  task->alignment = alignment_of(task->data, task->start);
  task->num_items = ceil_div(task->start + task->size, kChunkBytes) - task->start / kChunkBytes;
}

static inline void add_digest(const DigestTask& given, int64_t row, PackedList<DeviceDigest>* list) {
  const std::vector<Dim> dims = index_dims(given);
  DeviceDigest task{};
  task.data = static_cast<const char*>(given.data);
  task.item_size = given.item_size;
  task.key = given.key;
  task.row = row;
  if (set_elements(&task, given.start, dims)) {
    set_bytes(&task);
    list->add(task, {});
  } else {
    list->add(task, set_segments(&task, dims, kVectorBytes / task.item_size));
  }
}

// In chunks, about.
static inline int64_t work_of(const DeviceDigest& task) {
  if (task.shape == Shape::kRun) return task.num_items;
  return ceil_div(task.num_items * std::max<int64_t>(kVectorBytes, task.segment * task.item_size),
                  kChunkBytes);
}

static inline PackedList<DeviceDigest> pack_digests(const DigestTask* given, const int64_t* rows,
                                                    int64_t num_tasks,
                                                    const DigestMeasure& measure = DigestMeasure()) {
  PackedList<DeviceDigest> list;
  int64_t chunks = 0, units = 0;
  for (int64_t t = 0; t < num_tasks; ++t) {
    add_digest(given[t], rows[t], &list);
    chunks += work_of(list.tasks.back());
  }
  const int64_t per_unit = std::clamp<int64_t>(chunks / measure.units_wanted, 1, measure.most_chunks);
  for (DeviceDigest& task : list.tasks) {
    task.unit_items = static_cast<int32_t>(task.shape == Shape::kRun ? per_unit : per_unit * kUnitItems);
    units += ceil_div(task.num_items, task.unit_items);
    list.unit_ends.push_back(units);
  }
  return list;
}

}  // namespace cuda
}  // namespace convinit
