// The comparing kernel's body: the walk of fill_body.h, whose values are held against what is there, by a
// team of threads (task_list.h).
#pragma once

#include "cuda/fill_body.h"

namespace convinit {
namespace cuda {

constexpr uint64_t kNone = ~uint64_t{0};  // as a signed number -1

// Elements that differ: how many, and the index of the first.
struct Different {
  uint64_t count, first;
};

CONVINIT_HD Different nothing() { return {0, kNone}; }

CONVINIT_HD void note_element(Different* found, int64_t index) {
  ++found->count;
  if (static_cast<uint64_t>(index) < found->first) found->first = static_cast<uint64_t>(index);
}

// Unsigned numbers of as many bytes as an element has.
template <int kBytes>
struct BitsOf;
template <>
struct BitsOf<1> {
  using Type = uint8_t;
};
template <>
struct BitsOf<2> {
  using Type = uint16_t;
};
template <>
struct BitsOf<4> {
  using Type = uint32_t;
};
template <>
struct BitsOf<8> {
  using Type = uint64_t;
};

template <class Out>
CONVINIT_HD typename BitsOf<sizeof(Out)>::Type bits_in(const Out& element) {
  typename BitsOf<sizeof(Out)>::Type bits;
  memcpy(&bits, &element, sizeof bits);
  return bits;
}

// Two vectors that differ.
template <class Out>
CONVINIT_HD_CALLED void note_vector(const Vector& wanted, const Vector& held, int64_t index,
                                    Different* found) {
  Out one[kVectorBytes / sizeof(Out)], other[kVectorBytes / sizeof(Out)];
  memcpy(one, wanted.words, sizeof one);
  memcpy(other, held.words, sizeof other);
  CONVINIT_UNROLL
  for (size_t i = 0; i < kVectorBytes / sizeof(Out); ++i) {
    if (bits_in(one[i]) != bits_in(other[i])) note_element(found, index + static_cast<int64_t>(i));
  }
}

// The sink.
struct Comparison {
  Different* found;

  template <class Out>
  CONVINIT_HD_METHOD void vector(const Vector& wanted, const char* at, int64_t index) {
    const Vector held = load<kVectorBytes>(at);
    uint32_t differing = 0;
    CONVINIT_UNROLL
    for (int i = 0; i < 4; ++i) differing |= wanted.words[i] ^ held.words[i];
    if (differing != 0) note_vector<Out>(wanted, held, index, found);
  }

  template <class Out, uint32_t kCount>
  CONVINIT_HD_METHOD void block(const Out (&block)[kCount], uint32_t first, uint32_t end, int64_t stride,
                                const Out* at, int64_t index) {
    CONVINIT_UNROLL
    for (uint32_t k = 0; k < kCount; ++k) {
      if (k < first || k >= end) continue;
      if (bits_in(block[k]) != bits_in(*at)) note_element(found, index + (k - first));
      at += stride;
    }
  }
};

// Adds what the threads have found to the task's row, and begins anew. `whole` is the block's own.
template <class Team>
CONVINIT_DEVICE void hand_in(const DeviceFill& task, Team* team, Different* whole, uint64_t* rows) {
  team->each([&](const Thread& thread, Different*) {
    if (thread.number == 0) *whole = nothing();
  });
  team->each([&](const Thread&, Different* found) {
    if (found->count == 0) return;
    team->add(&whole->count, found->count);
    team->lower(&whole->first, found->first);
    *found = nothing();
  });
  team->each([&](const Thread& thread, Different*) {
    if (thread.number != 0 || whole->count == 0) return;
    team->add(&rows[2 * task.row], whole->count);
    team->lower(&rows[2 * task.row + 1], whole->first);
  });
}

// Everything that block number `block` does.
template <class Team>
CONVINIT_DEVICE void compare_body(const void* image, uint32_t block, uint32_t num_blocks, Team* team,
                                  Different* whole, uint64_t* rows) {
  const TaskList<DeviceFill> list = open_image<DeviceFill>(image);
  const auto compare_visit = [&](const Visit& visit) {
    team->each(
        [&](const Thread& thread, Different* found) { fill_visit(list, visit, thread, Comparison{found}); });
  };
  visit_units(list, block, num_blocks, team, compare_visit,
              [&](const DeviceFill& task) { hand_in(task, team, whole, rows); });
}

}  // namespace cuda
}  // namespace convinit
