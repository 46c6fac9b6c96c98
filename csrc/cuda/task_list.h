// A task list as the device reads it: one block of bytes with a header, the end of each task's units, the
// tasks, and the dimensions that they share. task_list_host.h writes it.
#pragma once

#include <cstring>

#include "core/macros.h"
#include "core/task.h"

namespace convinit {
namespace cuda {

constexpr int64_t kVectorBytes = 16;  // of one load or store
constexpr int64_t kUnitItems = 256;   // of the smallest unit: one for each thread of a block
constexpr int64_t kMostChunks = 64;   // of a unit of a digest

struct Vector {
  uint32_t words[kVectorBytes / sizeof(uint32_t)];
};

// `from` is a multiple of kAlignment.
template <int kAlignment>
CONVINIT_HD Vector load(const char* from) {
  Vector vector;
  memcpy(vector.words, __builtin_assume_aligned(from, kAlignment), sizeof vector);
  return vector;
}

// How a task's work is counted. A run is consecutive in the index and in memory. Any other layout counts
// segments: up to `segment` consecutive positions of the innermost dimension. Vectors are segments that are
// each a whole vector, in memory and in the index, and blocks such of whole Philox blocks, all of one length;
// there are fewer than 2^32 of either.
enum class Shape : int32_t { kRun, kSegments, kVectors, kBlocks };

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
struct DeviceFill : Elements {
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

// A digest. A run's elements are bytes, and its items are the chunks that it has bytes of. Elements of
// segments have `item_size` bytes.
struct DeviceDigest : Elements {
  int32_t item_size;
  // A power of two up to kVectorBytes: a vector of a run lies at a multiple of it in memory.
  int32_t alignment;
  const char* data;
  Key key;
  int64_t row;  // of the sums
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

// Consecutive positions of the innermost dimension.
struct Segment {
  int64_t place;  // of the first one in memory, in elements
  int64_t index;
  int64_t count;
};

// Takes the last digit, in base `size`, off a number. Most numbers have 32 bits, and a GPU divides those in a
// fraction of the time.
CONVINIT_HD int64_t take_digit(uint64_t* number, int64_t size) {
  const uint64_t whole = *number;
  if (((whole | static_cast<uint64_t>(size)) >> 32) == 0) {
    const uint32_t quotient = static_cast<uint32_t>(whole) / static_cast<uint32_t>(size);
    *number = quotient;
    return static_cast<uint32_t>(whole) - quotient * static_cast<uint32_t>(size);
  }
  *number = whole / static_cast<uint64_t>(size);
  return static_cast<int64_t>(whole - *number * static_cast<uint64_t>(size));
}

// Where a segment is that its row has all of, of a task that starts at this index and has fewer than 2^32 of
// them. The last digit is what is left.
CONVINIT_HD Segment whole_segment(int64_t start, const Dim* digits, int32_t num_digits, uint32_t number) {
  Segment segment{0, start, 0};
  const auto add = [&segment](uint32_t digit, const Dim& dim) {
    segment.place += digit * dim.data_stride;
    segment.index += digit * dim.index_stride;
  };
  CONVINIT_NO_UNROLL
  for (; num_digits > 1; --num_digits) {
    const uint32_t size = static_cast<uint32_t>(digits->size), quotient = number / size;
    add(number - quotient * size, *digits++);
    number = quotient;
  }
  add(number, *digits);
  return segment;
}

// A segment that would begin before its row, or go on after it, is cut; nothing may be left.
CONVINIT_HD Segment segment_of(const Elements& task, const Dim* digits, int64_t item) {
  uint64_t number = static_cast<uint64_t>(item);
  int64_t place = 0, index = task.start, position = 0;
  CONVINIT_NO_UNROLL
  for (int32_t d = task.first_digit, left = task.num_digits; left > 0; ++d, --left) {
    const int64_t digit = left > 1 ? take_digit(&number, digits[d].size) : static_cast<int64_t>(number);
    if (d == task.segment_digit) {
      position = digit * task.segment;
    } else {
      place += digit * digits[d].data_stride;
      index += digit * digits[d].index_stride;
    }
  }
  position -= index & (task.align - 1);
  const int64_t begin = position > 0 ? position : 0;
  const int64_t last = position + task.segment;
  const int64_t end = last < task.size ? last : task.size;
  return {place + begin * task.data_stride, index + begin * task.index_stride, end - begin};
}

// The parts of a run: its vectors, of `per_vector` elements each, and what it has before and after them.
constexpr int64_t kVectors = 0, kHead = 1, kNumParts = 3;

CONVINIT_HD Segment part_of(const DeviceFill& task, int64_t part, int64_t per_vector) {
  const int64_t before = (-task.start) & (per_vector - 1);
  const int64_t head = before < task.size ? before : task.size;
  if (part == kHead) return {0, task.start, head};
  const int64_t length = task.num_items * per_vector;
  if (part == kVectors) return {head, task.start + head, length};
  return {head + length, task.start + head + length, task.size - head - length};
}

// A thread among those of its block.
struct Thread {
  uint32_t number, num_threads;
};

// A thread block's visit to a task: one unit of it, or its part of the whole.
struct Visit {
  int32_t task;
  int64_t number;       // of the task's unit
  int64_t begin, end;   // of the items
  int64_t next_unit;    // of the block
  int64_t num_threads;  // that share the items
};

template <class Task>
CONVINIT_HD Visit visit_at(const TaskList<Task>& list, int64_t unit, uint32_t num_blocks,
                           uint32_t num_threads) {
  const int32_t t = task_of(list, unit);
  const Task& task = list.tasks[t];
  const int64_t first_unit = t > 0 ? list.unit_ends[t - 1] : 0;
  const int64_t number = unit - first_unit, num_units = list.unit_ends[t] - first_unit;
  Visit visit{t,          number, number * task.unit_items, (number + 1) * task.unit_items, unit + num_blocks,
              num_threads};
  if (task.unit_items == kWhole) {
    const int64_t num_visitors = num_units < num_blocks ? num_units : num_blocks;
    const int64_t num_visited = (num_units - number + num_blocks - 1) / num_blocks;
    visit = {t,
             number,
             number * num_threads,
             task.num_items,
             unit + num_visited * num_blocks,
             num_visitors * num_threads};
  }
  if (visit.end > task.num_items) visit.end = task.num_items;
  return visit;
}

// Everything that block number `block` does by a team of threads: visit(Visit) for its part of the list, and
// hand_in(task) where it comes to another task, and at the end.
//
// The threads of a team do one step each and then wait for each other: the GPU's block in kernel.inl, a loop
// on the host in the tests. A team has num_threads(); each(step), which calls step(Thread, Own*) in every
// thread, with what the thread keeps for itself, and returns when all have; and add(uint64_t*, uint64_t) and
// lower(uint64_t*, uint64_t), a minimum, which other threads may do at the same time.
template <class Task, class Team, class DoVisit, class HandIn>
CONVINIT_DEVICE void visit_units(const TaskList<Task>& list, uint32_t block, uint32_t num_blocks, Team* team,
                                 DoVisit do_visit, HandIn hand_in) {
  int32_t current = -1;
  CONVINIT_NO_UNROLL
  for (int64_t unit = block; unit < list.header->num_units;) {
    const Visit visit = visit_at(list, unit, num_blocks, team->num_threads());
    if (current >= 0 && current != visit.task) hand_in(list.tasks[current]);
    current = visit.task;
    do_visit(visit);
    unit = visit.next_unit;
  }
  if (current >= 0) hand_in(list.tasks[current]);
}

}  // namespace cuda
}  // namespace convinit
