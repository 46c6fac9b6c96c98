// The comparing kernel's body: the walk of fill_body.h, whose values are held against what is there. It is
// written for a team of threads, as digest_body.h: each(step) calls step(Thread, Different*) in every thread,
// with what the thread itself has found; add(uint64_t*, uint64_t) and lower(uint64_t*, uint64_t), a minimum,
// may be done by many at the same time.
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

// `from` is a multiple of 16.
CONVINIT_HD Vector load_vector(const char* from) {
  Vector vector;
#if defined(__CUDA_ARCH__)
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  vector = {{words.x, words.y, words.z, words.w}};
#else
  memcpy(vector.words, from, sizeof vector);
#endif
  return vector;
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
    const Vector held = load_vector(at);
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
CONVINIT_DEVICE void hand_in(int32_t row, Team* team, Different* whole, uint64_t* rows) {
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
    team->add(&rows[2 * row], whole->count);
    team->lower(&rows[2 * row + 1], whole->first);
  });
}

// Everything that block number `block` does. It hands in where it comes to another task.
template <class Team>
CONVINIT_DEVICE void compare_body(const void* image, uint32_t block, uint32_t num_blocks,
                                  uint32_t num_threads, Team* team, Different* whole, uint64_t* rows) {
  const TaskList<Task> list = open_image<Task>(image);
  int32_t current = -1;
  CONVINIT_NO_UNROLL
  for (int64_t unit = block; unit < list.header->num_units;) {
    const Visit visit = visit_at(list, unit, num_blocks, num_threads);
    if (current >= 0 && current != visit.task) hand_in(list.tasks[current].row, team, whole, rows);
    current = visit.task;
    team->each(
        [&](const Thread& thread, Different* found) { fill_visit(list, visit, thread, Comparison{found}); });
    unit = visit.next_unit;
  }
  if (current >= 0) hand_in(list.tasks[current].row, team, whole, rows);
}

}  // namespace cuda
}  // namespace convinit
