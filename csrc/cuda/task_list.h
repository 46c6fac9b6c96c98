// A task list as the device reads it: one block of bytes with a header, the end of each task's units, the
// tasks, and the dimensions that they share. cuda/pack.h writes it, on the host.
#pragma once

#include "core/fill_task.h"
#include "core/macros.h"

namespace convinit {
namespace cuda {

// How a task's work is counted. A run is consecutive in the index and in memory, and its whole vectors in
// memory are whole vectors of the index: it counts those, and what is left before and after them are its
// edges. Any other layout counts segments: up to `segment` consecutive positions of the innermost dimension.
enum class Shape : int32_t { kRun, kSegments };

struct Task {
  char* data;
  int64_t start;                      // linear index of the first element
  int64_t size;                       // of the dimension innermost in the index
  int64_t data_stride, index_stride;  // of that dimension, in elements
  Key key;
  int64_t num_items;   // vectors of a run, or segments
  int32_t unit_items;  // or kWhole
  Shape shape;
  Kind kind;
  DType dtype;
  // For segments: a segment's number is written in digits, one for each dimension, nearest in memory first.
  // One of them counts the segments of a row, which begin at multiples of `align` of the index.
  int32_t first_digit, num_digits, segment_digit;
  int32_t segment, align;
  int32_t padding;
  union {
    Parameters<float> single;
    Parameters<double> real;
    uint64_t pattern;  // of a constant: 8 bytes of elements
  };
};

// A task so large that every thread block takes an equal part of it, at one visit. Its units are this long,
// so that there are at least as many as blocks.
constexpr int32_t kWhole = 0;

struct Header {
  int64_t num_units;
  int32_t num_tasks;
  int32_t num_digits;
};

// An image's parts, in their order.
struct TaskList {
  const Header* header;
  const int64_t* unit_ends;
  const Task* tasks;
  const Dim* digits;
};

CONVINIT_HD TaskList open_image(const void* image) {
  TaskList list;
  list.header = static_cast<const Header*>(image);
  list.unit_ends = reinterpret_cast<const int64_t*>(list.header + 1);
  list.tasks = reinterpret_cast<const Task*>(list.unit_ends + list.header->num_tasks);
  list.digits = reinterpret_cast<const Dim*>(list.tasks + list.header->num_tasks);
  return list;
}

}  // namespace cuda
}  // namespace convinit
