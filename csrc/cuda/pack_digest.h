// Host only: tensors to the task list that the digest's kernel reads (cuda/digest_list.h).
#pragma once

#include "cuda/digest.h"
#include "cuda/digest_list.h"
#include "cuda/pack_list.h"

namespace convinit {
namespace cuda {

// How work is measured out, as in cuda/pack.h.
struct DigestMeasure {
  int64_t most_chunks = kMostChunks;  // in a unit: enough that their factors cost little
  int64_t units_wanted = 4096;
};

// The largest power of two, up to the bytes of one load, that a vector's place in memory is a multiple of.
static inline int32_t alignment_of(const void* data, int64_t start) {
  const auto place = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(data)) - static_cast<uint64_t>(start);
  int32_t alignment = kLoadBytes;
  while (place % static_cast<uint64_t>(alignment) != 0) alignment /= 2;
  return alignment;
}

static inline void set_bytes(DigestTask* task) {
  const int64_t size = task->item_size;
  task->shape = Shape::kRun;
  task->start *= size;
  task->size *= size;
  task->item_size = 1;
  task->alignment = alignment_of(task->data, task->start);
  task->num_items = ceil_div(task->start + task->size, kChunkBytes) - task->start / kChunkBytes;
}

static inline void add_packed(const DigestInput& input, PackedList<DigestTask>* list) {
  std::vector<Dim> dims(input.dims, input.dims + input.num_dims);
  if (dims.empty()) dims.push_back({1, 1, 1});
  DigestTask task{};
  task.data = static_cast<const char*>(input.data);
  task.start = input.start;
  task.size = dims.back().size;
  task.data_stride = dims.back().data_stride;
  task.index_stride = dims.back().index_stride;
  task.item_size = input.item_size;
  task.key = input.key;
  task.row = input.row;
  if (dims.size() == 1 && task.data_stride == 1 && task.index_stride == 1) {
    set_bytes(&task);
    list->add(task, {});
  } else {
    list->add(task, set_segments(&task, dims, kLoadBytes / task.item_size));
  }
}

// In chunks, about.
static inline int64_t work_of(const DigestTask& task) {
  if (task.shape == Shape::kRun) return task.num_items;
  return ceil_div(task.num_items * std::max<int64_t>(kLoadBytes, task.segment * task.item_size), kChunkBytes);
}

static inline PackedList<DigestTask> pack_digest_list(const DigestInput* inputs, int64_t num_inputs,
                                                      const DigestMeasure& measure = DigestMeasure()) {
  PackedList<DigestTask> list;
  int64_t chunks = 0;
  for (int64_t t = 0; t < num_inputs; ++t) {
    add_packed(inputs[t], &list);
    chunks += work_of(list.tasks.back());
  }
  const int64_t per_unit = std::clamp<int64_t>(chunks / measure.units_wanted, 1, measure.most_chunks);
  int64_t units = 0;
  for (DigestTask& task : list.tasks) {
    task.unit_items = static_cast<int32_t>(task.shape == Shape::kRun ? per_unit : per_unit * kUnitItems);
    units += ceil_div(task.num_items, task.unit_items);
    list.unit_ends.push_back(units);
  }
  return list;
}

// What image_size is at most, without packing.
static inline int64_t largest_digest_image(const DigestInput* inputs, int64_t num_inputs) {
  int64_t num_digits = 0;
  for (int64_t t = 0; t < num_inputs; ++t) num_digits += most_digits(inputs[t].num_dims);
  return image_size<DigestTask>(num_inputs, num_digits);
}

}  // namespace cuda
}  // namespace convinit
