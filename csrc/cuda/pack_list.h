// Host only: what every kind of task list has in common on its way to the device, cuda/task_list.h.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

constexpr int64_t kLongestSegment = 16;  // elements that a thread takes one after the other
constexpr int64_t kUnitItems = 256;      // of the smallest unit: one for each thread of a block

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Neighbours in memory are for neighbouring threads: rows that lie together are cut into vectors, other rows
// as long as a thread goes on. Returns the digits.
static inline std::vector<Dim> set_segments(Elements* task, std::vector<Dim> dims, int64_t per_vector) {
  const auto nearer = [](const Dim& a, const Dim& b) { return a.data_stride < b.data_stride; };
  const auto aligned = [&](const Dim& dim) { return dim.index_stride % per_vector == 0; };
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
static void write_image(const PackedList<Task>& list, void* image) {
  const Header header{list.unit_ends.empty() ? 0 : list.unit_ends.back(),
                      static_cast<int32_t>(list.tasks.size()), static_cast<int32_t>(list.digits.size())};
  char* to = append(static_cast<char*>(image), &header, 1);
  to = append(to, list.unit_ends.data(), list.unit_ends.size());
  to = append(to, list.tasks.data(), list.tasks.size());
  append(to, list.digits.data(), list.digits.size());
}

template <class Task>
static int64_t image_size(int64_t num_tasks, int64_t num_digits) {
  return static_cast<int64_t>(sizeof(Header)) +
         num_tasks * static_cast<int64_t>(sizeof(int64_t) + sizeof(Task)) +
         num_digits * static_cast<int64_t>(sizeof(Dim));
}

template <class Task>
static int64_t image_size(const PackedList<Task>& list) {
  return image_size<Task>(static_cast<int64_t>(list.tasks.size()), static_cast<int64_t>(list.digits.size()));
}

// No task has more digits than dimensions, or than one.
static inline int64_t most_digits(int32_t num_dims) { return std::max(1, num_dims); }

}  // namespace cuda
}  // namespace convinit
