// Where a task's segments lie, in memory and in the index.
#pragma once

#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

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

// A segment that would begin before its row, or go on after it, is cut; nothing may be left.
CONVINIT_HD Segment segment_of(const Elements& task, const Dim* digits, int64_t item) {
  uint64_t number = static_cast<uint64_t>(item);
  int64_t place = 0, index = task.start, position = 0;
  CONVINIT_NO_UNROLL
  for (int32_t d = task.first_digit; d < task.first_digit + task.num_digits; ++d) {
    const int64_t digit = take_digit(&number, digits[d].size);
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

CONVINIT_HD Segment part_of(const Task& task, int64_t part, int64_t per_vector) {
  const int64_t before = (-task.start) & (per_vector - 1);
  const int64_t head = before < task.size ? before : task.size;
  if (part == kHead) return {0, task.start, head};
  const int64_t length = task.num_items * per_vector;
  if (part == kVectors) return {head, task.start + head, length};
  return {head + length, task.start + head + length, task.size - head - length};
}

}  // namespace cuda
}  // namespace convinit
