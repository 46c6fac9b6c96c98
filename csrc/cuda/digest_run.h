// What the ways to digest a tensor share, and digests of runs: consecutive elements, vector by vector.
#pragma once

#include <cstring>

#include "core/digest.h"
#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

constexpr int kVectorWords = kVectorBytes / 4;
constexpr uint32_t kMostThreads = 256;
constexpr uint32_t kJoined = 16;  // numbers that are left of all threads' after the first of two steps
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

CONVINIT_DEVICE int64_t chunk_of(int64_t byte) { return byte >> kChunkShift; }  // rounds down

CONVINIT_DEVICE uint64_t multiply_add(uint32_t a, uint32_t b, uint64_t to) {
#if defined(__CUDA_ARCH__)
  // Said outright: nvcc would widen the weights ahead of its loops, and add their upper halves' products too.
  asm("mad.wide.u32 %0, %1, %2, %0;" : "+l"(to) : "r"(a), "r"(b));
  return to;
#else
  return to + static_cast<uint64_t>(a) * b;
#endif
}

constexpr int64_t kColumns = kChunkBytes / kVectorBytes;  // vectors of a chunk
constexpr int kAhead = 4;                                 // vectors on their way from memory

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

CONVINIT_DEVICE void add_vector(const Vector& vector, const VectorWeights& weights,
                                const scalar::Factors& factors, Sums* sums) {
  CONVINIT_UNROLL
  for (int a = 0; a < kSums; ++a) {
    uint64_t inner = 0;
    CONVINIT_UNROLL
    for (int i = 0; i < kVectorWords; ++i) inner = multiply_add(vector.words[i], weights.of[a][i], inner);
    sums->of[a] += factors.of[a] * inner;
  }
}

// One vector of each of several chunks that follow each other.
template <int kAlignment>
CONVINIT_DEVICE void add_column(const char* from, int32_t num_chunks, const scalar::Factors* factors,
                                const VectorWeights& weights, Sums* sums) {
  CONVINIT_NO_UNROLL
  for (; num_chunks >= kAhead; num_chunks -= kAhead) {
    CONVINIT_ASSUME_GLOBAL(from);
    Vector vectors[kAhead];
    CONVINIT_UNROLL
    for (int i = 0; i < kAhead; ++i) vectors[i] = load<kAlignment>(from + i * kChunkBytes);
    CONVINIT_UNROLL
    for (int i = 0; i < kAhead; ++i) add_vector(vectors[i], weights, factors[i], sums);
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

// Chunks of a run, by their numbers: from the first up to the second.
struct Chunks {
  int64_t begin, end;
};

// Not by the visit's begin and end, of which nvcc makes a longer main loop.
CONVINIT_DEVICE Chunks chunks_of(const DeviceDigest& task, const Visit& visit) {
  int64_t end = (visit.number + 1) * task.unit_items;
  if (end > task.num_items) end = task.num_items;
  const int64_t first = chunk_of(task.start);
  return {first + visit.number * task.unit_items, first + end};
}

// The bytes that the run has of a vector; the others are zeros.
CONVINIT_DEVICE_CALLED Vector part_of_vector(const DeviceDigest& task, int64_t begin) {
  Vector vector{};
  for (int64_t at = begin; at < begin + kVectorBytes; ++at) {
    if (at < task.start || at >= task.start + task.size) continue;
    const auto byte = static_cast<uint8_t>(task.data[at - task.start]);
    vector.words[(at - begin) / 4] |= static_cast<uint32_t>(byte) << (at % 4 * 8);
  }
  return vector;
}

// Vector number `vector` of each of the chunks.
CONVINIT_DEVICE void add_vectors(const DeviceDigest& task, const Chunks& chunks, int64_t vector,
                                 const Shared& shared, Sums* sums) {
  const VectorWeights weights = weights_of(shared, vector);
  const int64_t offset = vector * kVectorBytes, run_end = task.start + task.size;
  // The run has all of the vector in chunks from the first of these up to the second.
  const int64_t whole = chunk_of(task.start - offset + kChunkBytes - 1);
  const int64_t past = chunk_of(run_end - offset - kVectorBytes) + 1;
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
    if (at >= run_end || at + kVectorBytes <= task.start) continue;
    add_vector(part_of_vector(task, at), weights, shared.factors[chunk - chunks.begin], sums);
  }
}

}  // namespace cuda
}  // namespace convinit
