// A task list as the device reads it: one block of bytes with a header, the end of each task's units, the
// tasks, and the dimensions that they share. cuda/pack_list.h writes it, on the host.
#pragma once

#include "core/fill_task.h"
#include "core/macros.h"

namespace convinit {
namespace cuda {

// How a task's work is counted. A run is consecutive in the index and in memory. Any other layout counts
// segments: up to `segment` consecutive positions of the innermost dimension.
enum class Shape : int32_t { kRun, kSegments };

// Where a task's elements lie, in memory and in the index.
struct Elements {
  int64_t start;                      // linear index of the first element
  int64_t size;                       // of the dimension innermost in the index
  int64_t data_stride, index_stride;  // of that dimension, in elements
  int64_t num_items;                  // segments, or what a run is counted in
  int32_t unit_items;                 // how many of them are a unit of work
  Shape shape;
  // For segments: a segment's number is written in digits, one for each dimension, nearest in memory first.
  // One of them counts the segments of a row, which begin at multiples of `align` of the index.
  int32_t first_digit, num_digits, segment_digit;
  int32_t segment, align;
};

// A fill. Where whole vectors of a run in memory are whole vectors of the index, it counts those, and what is
// left before and after them are its edges; other runs are segments.
struct Task : Elements {
  Kind kind;
  char* data;
  Key key;
  DType dtype;
  int32_t row;  // of the results, where the values are compared
  union {
    Parameters<float> single;
    Parameters<double> real;
    uint64_t pattern;  // of a constant: 8 bytes of elements
  };
};

// In place of unit_items: a task so large that every thread block takes an equal part of it, at one visit.
// Its units are this long, so that there are at least as many as blocks.
constexpr int32_t kWhole = 0;

struct Header {
  int64_t num_units;
  int32_t num_tasks;
  int32_t num_digits;
};

// An image's parts, in their order.
template <class Task>
struct TaskList {
  const Header* header;
  const int64_t* unit_ends;
  const Task* tasks;
  const Dim* digits;
};

template <class Task>
CONVINIT_HD TaskList<Task> open_image(const void* image) {
  TaskList<Task> list;
  list.header = static_cast<const Header*>(image);
  list.unit_ends = reinterpret_cast<const int64_t*>(list.header + 1);
  list.tasks = reinterpret_cast<const Task*>(list.unit_ends + list.header->num_tasks);
  list.digits = reinterpret_cast<const Dim*>(list.tasks + list.header->num_tasks);
  return list;
}

// The task that a unit belongs to: the first whose units end after it.
template <class Task>
CONVINIT_HD int32_t task_of(const TaskList<Task>& list, int64_t unit) {
  int32_t first = 0, last = list.header->num_tasks - 1;
  CONVINIT_NO_UNROLL
  while (first < last) {
    const int32_t middle = (first + last) / 2;
    if (list.unit_ends[middle] > unit) {
      last = middle;
    } else {
      first = middle + 1;
    }
  }
  return first;
}

// A thread among those of its block.
struct Thread {
  uint32_t number, num_threads;
};

}  // namespace cuda
}  // namespace convinit
