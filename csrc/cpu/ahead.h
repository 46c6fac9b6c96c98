// Reads a tensor unit by unit, and prefetches memory that will be read soon.
#pragma once

#include "cpu/tiling.h"

namespace convinit {

constexpr int64_t kAheadBytes = 6 * 1024;  // in one stretch; by measurement: half is late, twice no better

// The lines of a unit's memory, or of one stretch. Stretches are far from each other, and the processor,
// which guesses what comes next in one stretch only, and not beyond a page, would wait at the start of each.
class Ahead {
 public:
  static constexpr int64_t kLineBytes = 64;
  static constexpr int64_t kLineWords = kLineBytes / 4;

  Ahead() = default;  // of nothing
  Ahead(const Unit& unit, const void* data, int64_t item_size)
      : stretch_(static_cast<const char*>(data) + unit.data * item_size) {
    const bool is_transposed = unit.row.data_stride < unit.column.data_stride;
    const Dim& near = is_transposed ? unit.row : unit.column;
    const Dim& far = is_transposed ? unit.column : unit.row;
    stretch_bytes_ = (is_transposed ? unit.rows : unit.columns) * near.data_stride * item_size;
    num_left_ = is_transposed ? unit.columns : unit.rows;
    step_ = far.data_stride * item_size;
  }

  // Of one stretch, which may end outside what there is: nothing is read.
  Ahead(const char* stretch, int64_t num_bytes)
      : stretch_(stretch), stretch_bytes_(num_bytes), num_left_(1) {}

  // Always inlined: what the files of the instruction sets call, none of them may define for the others.
  inline __attribute__((always_inline)) void prefetch(int64_t num_lines) {
    for (; num_lines > 0 && num_left_ > 0; --num_lines) {
      __builtin_prefetch(stretch_ + at_);
      at_ += kLineBytes;
      if (at_ < stretch_bytes_) continue;
      at_ = 0;
      stretch_ += step_;
      --num_left_;
    }
  }

 private:
  const char* stretch_ = nullptr;
  int64_t stretch_bytes_ = 0, step_ = 0, num_left_ = 0, at_ = 0;
};

// Calls visit(linear index, number of elements, where they are, what comes next in memory) for the stretches
// of a unit whose indices follow each other. Where they do not in memory, the unit is in the buffer then.
template <class Visit>
void read_unit(const Tiling& tiling, int64_t number, const void* data, char* buffer, Visit visit) {
  const Unit unit = locate(tiling, number);
  const int64_t size = tiling.tensor.item_size;
  Ahead next;
  if (tiling.in_place) {
    const char* elements = static_cast<const char*>(data) + unit.data * size;
    next = Ahead(elements + kAheadBytes, unit.columns * size);
    return visit(unit.index, unit.columns, elements, &next);
  }
  gather(tiling, unit, data, buffer);
  if (number + 1 < tiling.num_units) next = Ahead(locate(tiling, number + 1), data, size);
  for_each_run(unit, [&](int64_t index, int64_t count, int64_t place) {
    visit(index, count, buffer + place * size, &next);
  });
}

}  // namespace convinit
