// The digest kernel's body: what a block of threads adds to the sums of a task list's tensors. It is written
// for a team of threads that do one step each and then wait for each other: the GPU's block in digest.cu, a
// loop on the host in the tests.
//
// A team has: each(step), which calls step(Thread, Sums*) in every thread, with sums of the thread's own, and
// returns when all have; and add(uint64_t*, uint64_t), which other blocks may do at the same time.
#pragma once

#include <cstring>

#include "core/weights.h"
#include "cuda/digest_list.h"
#include "cuda/segment.h"

namespace convinit {
namespace cuda {

constexpr uint32_t kMostThreads = 256;
constexpr uint32_t kJoined = 16;  // numbers that are left of all threads' after the first of two steps
constexpr int64_t kColumns = kChunkBytes / kLoadBytes;  // vectors of a chunk
constexpr int kAhead = 4;                               // vectors on their way from memory
constexpr int kChunkShift = 12;
static_assert(int64_t{1} << kChunkShift == kChunkBytes, "a shift divides by it");

struct Sums {
  uint64_t of[kSums];
};

// A block's shared memory.
struct Shared {
  alignas(16) uint32_t table[kTableWords];
  alignas(16) scalar::Factors factors[kMostChunks];
  uint64_t own[kSums][kMostThreads];
  uint64_t joined[kSums][kJoined];
};

struct Words {
  uint32_t of[kVectorWords];
};

// A vector's, for each of the sums. A thread has the same vector of every chunk, so they stay in registers.
struct VectorWeights {
  uint32_t of[kSums][kVectorWords];
};

CONVINIT_DEVICE VectorWeights weights_of(const Shared& shared, int64_t vector) {
  VectorWeights weights;
  CONVINIT_UNROLL
  for (int a = 0; a < kSums; ++a) {
    CONVINIT_UNROLL
    for (int i = 0; i < kVectorWords; ++i) {
      weights.of[a][i] = shared.table[vector * kVectorWords + a * kTableShift + i];
    }
  }
  return weights;
}

CONVINIT_DEVICE uint64_t multiply_add(uint32_t a, uint32_t b, uint64_t to) {
#if defined(__CUDA_ARCH__)
  // One instruction. nvcc would make 64 bits of the weights before its loops, and then multiply those.
  asm("mad.wide.u32 %0, %1, %2, %0;" : "+l"(to) : "r"(a), "r"(b));
  return to;
#else
  return to + static_cast<uint64_t>(a) * b;
#endif
}

CONVINIT_DEVICE void add_vector(const Words& words, const VectorWeights& weights,
                                const scalar::Factors& factors, Sums* sums) {
  CONVINIT_UNROLL
  for (int a = 0; a < kSums; ++a) {
    uint64_t inner = 0;
    CONVINIT_UNROLL
    for (int i = 0; i < kVectorWords; ++i) inner = multiply_add(words.of[i], weights.of[a][i], inner);
    sums->of[a] += factors.of[a] * inner;
  }
}

template <int kAlignment>
CONVINIT_DEVICE Words load(const char* from) {
  Words words;
  memcpy(&words, __builtin_assume_aligned(from, kAlignment), sizeof words);
  return words;
}

// One vector of each of several chunks that follow each other.
template <int kAlignment>
CONVINIT_DEVICE void add_column(const char* from, int32_t num_chunks, const scalar::Factors* factors,
                                const VectorWeights& weights, Sums* sums) {
  CONVINIT_NO_UNROLL
  for (; num_chunks >= kAhead; num_chunks -= kAhead) {
    CONVINIT_ASSUME_GLOBAL(from);
    Words words[kAhead];
    CONVINIT_UNROLL
    for (int i = 0; i < kAhead; ++i) words[i] = load<kAlignment>(from + i * kChunkBytes);
    CONVINIT_UNROLL
    for (int i = 0; i < kAhead; ++i) add_vector(words[i], weights, factors[i], sums);
    from += kAhead * kChunkBytes;
    factors += kAhead;
  }
  CONVINIT_NO_UNROLL
  for (; num_chunks > 0; --num_chunks) {
    add_vector(load<kAlignment>(from), weights, *factors++, sums);
    from += kChunkBytes;
  }
}

CONVINIT_DEVICE void add_column(int32_t alignment, const char* from, int32_t num_chunks,
                                const scalar::Factors* factors, const VectorWeights& weights, Sums* sums) {
  switch (alignment) {
    case 16:
      return add_column<16>(from, num_chunks, factors, weights, sums);
    case 8:
      return add_column<8>(from, num_chunks, factors, weights, sums);
    case 4:
      return add_column<4>(from, num_chunks, factors, weights, sums);
    case 2:
      return add_column<2>(from, num_chunks, factors, weights, sums);
    default:
      return add_column<1>(from, num_chunks, factors, weights, sums);
  }
}

CONVINIT_DEVICE int64_t chunk_of(int64_t byte) { return byte >> kChunkShift; }  // rounds down

// Chunks of a run, by their numbers: from the first up to the second.
struct Chunks {
  int64_t begin, end;
};

CONVINIT_DEVICE Chunks chunks_of(const DigestTask& task, int64_t unit) {
  int64_t end = (unit + 1) * task.unit_items;
  if (end > task.num_items) end = task.num_items;
  const int64_t first = chunk_of(task.start);
  return {first + unit * task.unit_items, first + end};
}

// The bytes that the run has of a vector; the others are zeros.
CONVINIT_DEVICE_CALLED Words part_of_vector(const DigestTask& task, int64_t begin) {
  Words words{};
  for (int64_t at = begin; at < begin + kLoadBytes; ++at) {
    if (at < task.start || at >= task.start + task.size) continue;
    const auto byte = static_cast<uint8_t>(task.data[at - task.start]);
    words.of[(at - begin) / 4] |= static_cast<uint32_t>(byte) << (at % 4 * 8);
  }
  return words;
}

// Vector number `vector` of each of the chunks.
CONVINIT_DEVICE void add_vectors(const DigestTask& task, const Chunks& chunks, int64_t vector,
                                 const Shared& shared, Sums* sums) {
  const VectorWeights weights = weights_of(shared, vector);
  const int64_t offset = vector * kLoadBytes, run_end = task.start + task.size;
  // The run has all of the vector in chunks from the first of these up to the second.
  const int64_t whole = chunk_of(task.start - offset + kChunkBytes - 1);
  const int64_t past = chunk_of(run_end - offset - kLoadBytes) + 1;
  const int64_t begin = whole > chunks.begin ? whole : chunks.begin;
  const int64_t end = past < chunks.end ? past : chunks.end;
  if (begin < end) {
    add_column(task.alignment, task.data + (begin * kChunkBytes + offset - task.start),
               static_cast<int32_t>(end - begin), shared.factors + (begin - chunks.begin), weights, sums);
  }
  CONVINIT_NO_UNROLL
  for (int edge = 0; edge < 2; ++edge) {  // the first vector of all, and the last
    const int64_t chunk = edge == 0 ? whole - 1 : past;
    const int64_t at = chunk * kChunkBytes + offset;
    if (chunk < chunks.begin || chunk >= chunks.end || (edge == 1 && past == whole - 1)) continue;
    if (at >= run_end || at + kLoadBytes <= task.start) continue;
    add_vector(part_of_vector(task, at), weights, shared.factors[chunk - chunks.begin], sums);
  }
}

template <class Team>
CONVINIT_DEVICE void add_run(const DigestTask& task, int64_t unit, Team* team, Shared* shared) {
  const Chunks chunks = chunks_of(task, unit);
  team->each([&](const Thread& thread, Sums*) {
    for (int64_t i = thread.number; i < chunks.end - chunks.begin; i += thread.num_threads) {
      shared->factors[i] = scalar::factors_of(task.key, chunks.begin + i);
    }
  });
  team->each([&](const Thread& thread, Sums* sums) {
    for (int64_t vector = thread.number; vector < kColumns; vector += thread.num_threads) {
      add_vectors(task, chunks, vector, *shared, sums);
    }
  });
}

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

template <class Team>
CONVINIT_DEVICE void add_other_layout(const DigestTask& task, const Dim* digits, int64_t unit, Team* team,
                                      const Shared& shared) {
  team->each([&](const Thread& thread, Sums* sums) {
    switch (task.item_size) {
      case 8:
        return add_segments<uint64_t>(task, digits, unit, thread, shared, sums);
      case 4:
        return add_segments<uint32_t>(task, digits, unit, thread, shared, sums);
      case 2:
        return add_segments<uint16_t>(task, digits, unit, thread, shared, sums);
      default:
        return add_segments<uint8_t>(task, digits, unit, thread, shared, sums);
    }
  });
}

// Adds the threads' sums to the task's row, in two steps, and begins anew.
template <class Team>
CONVINIT_DEVICE void hand_in(const DigestTask& task, Team* team, Shared* shared, uint64_t* rows) {
  team->each([&](const Thread& thread, Sums* sums) {
    for (int a = 0; a < kSums; ++a) shared->own[a][thread.number] = sums->of[a];
    *sums = Sums{};
  });
  team->each([&](const Thread& thread, Sums*) {
    for (uint32_t i = thread.number; i < kSums * kJoined; i += thread.num_threads) {
      uint64_t* joined = &shared->joined[i / kJoined][i % kJoined];
      *joined = 0;
      for (uint32_t t = i % kJoined; t < thread.num_threads; t += kJoined) {
        *joined += shared->own[i / kJoined][t];
      }
    }
  });
  team->each([&](const Thread& thread, Sums*) {
    for (uint32_t a = thread.number; a < kSums; a += thread.num_threads) {
      uint64_t sum = 0;
      for (const uint64_t joined : shared->joined[a]) sum += joined;
      team->add(&rows[task.row * kSums + a], sum);
    }
  });
}

CONVINIT_DEVICE void make_table(const Thread& thread, uint32_t* table) {
  for (uint32_t block = thread.number; block < kTableWords / 4; block += thread.num_threads) {
    const scalar::Words words = scalar::table_block(static_cast<int>(block));
    table[4 * block] = words.w0;
    table[4 * block + 1] = words.w1;
    table[4 * block + 2] = words.w2;
    table[4 * block + 3] = words.w3;
  }
}

// Everything that block number `block` does: every num_blocks-th unit. It hands in its sums where it comes to
// another task.
template <class Team>
CONVINIT_DEVICE void digest_body(const void* image, uint32_t block, uint32_t num_blocks, Team* team,
                                 Shared* shared, uint64_t* rows) {
  const TaskList<DigestTask> list = open_image<DigestTask>(image);
  team->each([&](const Thread& thread, Sums*) { make_table(thread, shared->table); });
  int32_t current = -1;
  CONVINIT_NO_UNROLL
  for (int64_t unit = block; unit < list.header->num_units; unit += num_blocks) {
    const int32_t t = task_of(list, unit);
    const DigestTask& task = list.tasks[t];
    const int64_t number = unit - (t > 0 ? list.unit_ends[t - 1] : 0);
    if (current >= 0 && current != t) hand_in(list.tasks[current], team, shared, rows);
    current = t;
    if (task.shape == Shape::kRun) {
      add_run(task, number, team, shared);
    } else {
      add_other_layout(task, list.digits, number, team, *shared);
    }
  }
  if (current >= 0) hand_in(list.tasks[current], team, shared, rows);
}

}  // namespace cuda
}  // namespace convinit
