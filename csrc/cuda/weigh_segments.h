// Digests of other layouts: element by element.
#pragma once

#include "cuda/segment.h"
#include "cuda/weigh.h"

namespace convinit {
namespace cuda {

// Elements of one chunk at a time: what they add to the sums before the chunk's factors.
struct Inner {
  int64_t chunk;
  scalar::Factors factors;
  Sums sums;
};

CONVINIT_DEVICE void add_word(const Shared& shared, int64_t word, uint32_t value, Inner* inner) {
  const uint32_t* weights = shared.table + word % kChunkWords;
  CONVINIT_UNROLL
  for (int a = 0; a < kSums; ++a) {
    inner->sums.of[a] = multiply_add(value, weights[a * kTableShift], inner->sums.of[a]);
  }
}

CONVINIT_DEVICE void add_element(const Shared& shared, int64_t index, uint64_t value, Inner* inner) {
  add_word(shared, 2 * index, scalar::low_half(value), inner);
  add_word(shared, 2 * index + 1, scalar::high_half(value), inner);
}
// It may be a part of a word.
template <class Item>
CONVINIT_DEVICE void add_element(const Shared& shared, int64_t index, Item value, Inner* inner) {
  const auto at = static_cast<uint64_t>(index) * sizeof value;
  add_word(shared, static_cast<int64_t>(at / 4), static_cast<uint32_t>(value) << (at % 4 * 8), inner);
}

CONVINIT_DEVICE void finish(Inner* inner, Sums* sums) {
  CONVINIT_UNROLL
  for (int a = 0; a < kSums; ++a) sums->of[a] += inner->factors.of[a] * inner->sums.of[a];
  inner->sums = Sums{};
}

template <class Item>
CONVINIT_DEVICE void add_segment(const DigestTask& task, Segment segment, const Shared& shared, Sums* sums) {
  const char* data = task.data;
  CONVINIT_ASSUME_GLOBAL(data);
  const Item* from = reinterpret_cast<const Item*>(data) + segment.place;
  Inner inner{-1, {}, {}};
  CONVINIT_NO_UNROLL
  for (; segment.count > 0; --segment.count) {
    const int64_t chunk = chunk_of(segment.index * static_cast<int64_t>(sizeof(Item)));
    if (chunk != inner.chunk) {
      finish(&inner, sums);
      inner.chunk = chunk;
      inner.factors = scalar::factors_of(task.key, chunk);
    }
    add_element(shared, segment.index, *from, &inner);
    from += task.data_stride;
    segment.index += task.index_stride;
  }
  finish(&inner, sums);
}

template <class Item>
CONVINIT_DEVICE void add_segments(const DigestTask& task, const Dim* digits, int64_t unit,
                                  const Thread& thread, const Shared& shared, Sums* sums) {
  int64_t end = (unit + 1) * task.unit_items;
  if (end > task.num_items) end = task.num_items;
  CONVINIT_NO_UNROLL
  for (int64_t item = unit * task.unit_items + thread.number; item < end; item += thread.num_threads) {
    add_segment<Item>(task, segment_of(task, digits, item), shared, sums);
  }
}

}  // namespace cuda
}  // namespace convinit
