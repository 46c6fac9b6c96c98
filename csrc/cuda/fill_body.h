// The kernel's body, for host and device: what one thread of a grid writes of a task list. A unit of work
// goes to one thread block, and consecutive threads take consecutive items of it.
//
// What becomes of the values is the business of a sink: a fill's stores them; another, compare_body.h, holds
// them against what is there. It has vector<Out>(Vector, place in memory, index of the first element), and
// block(elements, first, end, stride, place in memory, index of `first`).
#pragma once

#include "cuda/source.h"
#include "cuda/task_list.h"

namespace convinit {
namespace cuda {

// Which items of a task a thread fills: begin, begin + step, ... below end.
struct Share {
  int64_t begin, end;
  uint32_t step;
};

// A run's vectors. The inner loop stays between two multiples of 2^32 blocks, which have the same round keys,
// and keeps up one number, which gives the block and the address.
template <class Source, class Sink>
CONVINIT_HD void fill_vectors(const DeviceFill& task, const Share& share, Sink sink) {
  using Out = typename Source::Out;
  constexpr int64_t kBlocks = Source::kPerVector / Source::kPerBlock;
  constexpr int64_t kBlocksPerRoundKeys = int64_t{1} << 32;
  constexpr int64_t kLongest = int64_t{1} << 31;  // so that 32 bits count it
  const Segment run = part_of(task, kVectors, Source::kPerVector);
  int64_t left = share.end - share.begin;
  int64_t block = run.index / Source::kPerBlock + share.begin * kBlocks;
  char* to = task.data + run.place * static_cast<int64_t>(sizeof(Out)) + share.begin * kVectorBytes;
  Source source(task);
  CONVINIT_NO_UNROLL
  while (left > 0) {
    seek(&source, scalar::high_half(block));
    CONVINIT_ASSUME_GLOBAL(to);
    const uint32_t low = scalar::low_half(block);
    const int64_t same_keys = (kBlocksPerRoundKeys - low) / kBlocks;
    int64_t length = left < same_keys ? left : same_keys;
    if (length > kLongest) length = kLongest;
    uint32_t done = 0;
    CONVINIT_NO_UNROLL
    do {
      sink.template vector<Out>(vector_at(source, low + done * static_cast<uint32_t>(kBlocks)),
                                to + done * kVectorBytes, (block + done * kBlocks) * Source::kPerBlock);
      done += share.step;
    } while (done < static_cast<uint32_t>(length));
    to += done * kVectorBytes;
    left -= done;
    block += done * kBlocks;
  }
}

// Consecutive elements of a block, from `first` up to `end`; all of them with one store where memory allows.
template <class Out, uint32_t kCount>
CONVINIT_HD void store_block(const Out (&block)[kCount], uint32_t first, uint32_t end, int64_t stride,
                             Out* to) {
  struct alignas(kCount * sizeof(Out)) Whole {
    Out block[kCount];
  };
  if (first == 0 && end == kCount && stride == 1 && reinterpret_cast<uintptr_t>(to) % sizeof block == 0) {
    Whole whole;
    memcpy(whole.block, block, sizeof block);
    *reinterpret_cast<Whole*>(to) = whole;
    return;
  }
  CONVINIT_UNROLL
  for (uint32_t k = 0; k < kCount; ++k) {
    if (k < first || k >= end) continue;
    *to = block[k];
    to += stride;
  }
}

// The sink of a fill.
struct Memory {
  template <class Out>
  CONVINIT_HD_METHOD void vector(const Vector& vector, char* to, int64_t) {
    store(vector, to);
  }
  template <class Out, uint32_t kCount>
  CONVINIT_HD_METHOD void block(const Out (&block)[kCount], uint32_t first, uint32_t end, int64_t stride,
                                Out* to, int64_t) {
    store_block(block, first, end, stride, to);
  }
};

// Block by block. Where the index has gaps, a block serves one element.
template <class Source, class Sink>
CONVINIT_HD void fill_segment(Source* source, const DeviceFill& task, Segment segment, Sink sink) {
  using Out = typename Source::Out;
  constexpr uint32_t kPerBlock = Source::kPerBlock;
  const int64_t stride = task.data_stride, index_stride = task.index_stride;
  char* data = task.data;
  CONVINIT_ASSUME_GLOBAL(data);
  Out* to = reinterpret_cast<Out*>(data) + segment.place;
  CONVINIT_NO_UNROLL
  while (segment.count > 0) {
    const uint64_t block = static_cast<uint64_t>(segment.index) / kPerBlock;
    const uint32_t first = static_cast<uint32_t>(segment.index) % kPerBlock;
    uint32_t length = index_stride == 1 ? kPerBlock - first : 1;
    if (length > segment.count) length = static_cast<uint32_t>(segment.count);
    Out elements[kPerBlock];
    seek(source, scalar::high_half(block));
    block_at(*source, scalar::low_half(block), elements);
    sink.block(elements, first, first + length, stride, to, segment.index);
    to += length * stride;
    segment.index += length * index_stride;
    segment.count -= length;
  }
}

// Segments, or a run's edges.
template <class Source, class Sink>
CONVINIT_HD_CALLED void fill_segments(const DeviceFill& task, const Dim* digits, Share share, Sink sink) {
  Source source(task);
  CONVINIT_NO_UNROLL
  for (int64_t item = share.begin; item < share.end; item += share.step) {
    const bool run = task.shape == Shape::kRun;
    fill_segment(&source, task,
                 run ? part_of(task, item, Source::kPerVector) : segment_of(task, digits, item), sink);
  }
}

// Segments that are a whole vector each, or several whole blocks.
template <bool kAreVectors, class Source, class Sink>
CONVINIT_HD_CALLED void fill_whole(const DeviceFill& task, const Dim* digits, Share share, Sink sink) {
  using Out = typename Source::Out;
  char* data = task.data;
  const int64_t start = task.start;
  [[maybe_unused]] const int64_t stride = task.data_stride;
  const int32_t num_digits = task.num_digits;
  [[maybe_unused]] const int32_t num_blocks = task.segment / Source::kPerBlock;
  digits += task.first_digit;
  Source source(task);
  CONVINIT_NO_UNROLL
  for (int64_t item = share.begin; item < share.end; item += share.step) {
    CONVINIT_ASSUME_GLOBAL(data);
    const Segment segment = whole_segment(start, digits, num_digits, static_cast<uint32_t>(item));
    Out* to = reinterpret_cast<Out*>(data) + segment.place;
    uint64_t block = static_cast<uint64_t>(segment.index) / Source::kPerBlock;
    if constexpr (kAreVectors) {
      seek(&source, scalar::high_half(block));
      sink.template vector<Out>(vector_at(source, scalar::low_half(block)), reinterpret_cast<char*>(to),
                                segment.index);
    } else {
      CONVINIT_NO_UNROLL
      for (int32_t left = num_blocks; left > 0; --left, ++block) {
        Out elements[Source::kPerBlock];
        seek(&source, scalar::high_half(block));
        block_at(source, scalar::low_half(block), elements);
        sink.block(elements, 0, Source::kPerBlock, stride, to,
                   static_cast<int64_t>(block * Source::kPerBlock));
        to += Source::kPerBlock * stride;
      }
    }
  }
}

// A thread's part of one visit of its block to a task.
template <class Source, class Sink>
CONVINIT_HD void fill_share(const DeviceFill& task, const Dim* digits, const Share& share,
                            const Thread& edges, Sink sink) {
  if (task.shape == Shape::kRun) {
    fill_vectors<Source>(task, share, sink);
    if (edges.number < kNumParts - kHead) {
      fill_segments<Source>(task, digits, {kHead + edges.number, kNumParts, edges.num_threads}, sink);
    }
    return;
  }
  if constexpr (Source::kHasWhole) {
    if (task.shape == Shape::kVectors) return fill_whole<true, Source>(task, digits, share, sink);
    if (task.shape == Shape::kBlocks) return fill_whole<false, Source>(task, digits, share, sink);
  }
  fill_segments<Source>(task, digits, share, sink);
}

template <class Sampler, class Sink>
CONVINIT_HD void fill_samples(const DeviceFill& task, const Dim* digits, const Share& share,
                              const Thread& edges, Sink sink) {
  switch (task.dtype) {
    case DType::kFloat32:
      return fill_share<Samples<Sampler, float>>(task, digits, share, edges, sink);
    case DType::kFloat64:
      return fill_share<Samples<Sampler, double>>(task, digits, share, edges, sink);
    case DType::kFloat16:
      return fill_share<Samples<Sampler, Half>>(task, digits, share, edges, sink);
    case DType::kBFloat16:
      return fill_share<Samples<Sampler, BFloat16>>(task, digits, share, edges, sink);
    case DType::kFloat8E4M3:
      return fill_share<Samples<Sampler, Float8E4M3>>(task, digits, share, edges, sink);
    case DType::kFloat8E5M2:
      return fill_share<Samples<Sampler, Float8E5M2>>(task, digits, share, edges, sink);
  }
}

template <class Sink>
CONVINIT_HD void fill_constant(const DeviceFill& task, const Dim* digits, const Share& share,
                               const Thread& edges, Sink sink) {
  switch (task.dtype) {
    case DType::kFloat64:
      return fill_share<Repeated<uint64_t>>(task, digits, share, edges, sink);
    case DType::kFloat32:
      return fill_share<Repeated<uint32_t>>(task, digits, share, edges, sink);
    case DType::kFloat16:
    case DType::kBFloat16:
      return fill_share<Repeated<uint16_t>>(task, digits, share, edges, sink);
    case DType::kFloat8E4M3:
    case DType::kFloat8E5M2:
      return fill_share<Repeated<uint8_t>>(task, digits, share, edges, sink);
  }
}

template <class Sink>
CONVINIT_HD void fill_task(const DeviceFill& task, const Dim* digits, const Share& share, const Thread& edges,
                           Sink sink) {
  switch (task.kind) {
    case Kind::kConstant:
      return fill_constant(task, digits, share, edges, sink);
    case Kind::kUniform:
      return fill_samples<scalar::Uniform>(task, digits, share, edges, sink);
    case Kind::kNormal:
      return fill_samples<scalar::Normal>(task, digits, share, edges, sink);
    case Kind::kTruncatedNormal:
      return fill_samples<scalar::TruncatedNormal>(task, digits, share, edges, sink);
  }
}

// What a thread does at a visit.
template <class Sink>
CONVINIT_HD void fill_visit(const TaskList<DeviceFill>& list, const Visit& visit, const Thread& thread,
                            Sink sink) {
  const Share share{visit.begin + thread.number, visit.end, static_cast<uint32_t>(visit.num_threads)};
  const Thread no_edges{kNumParts, thread.num_threads};
  fill_task(list.tasks[visit.task], list.digits, share, visit.number == 0 ? thread : no_edges, sink);
}

// Everything that a thread of block number `block` writes.
CONVINIT_HD void fill_body(const void* image, uint32_t block, uint32_t num_blocks, const Thread& thread) {
  const TaskList<DeviceFill> list = open_image<DeviceFill>(image);
  CONVINIT_NO_UNROLL
  for (int64_t unit = block; unit < list.header->num_units;) {
    const Visit visit = visit_at(list, unit, num_blocks, thread.num_threads);
    fill_visit(list, visit, thread, Memory());
    unit = visit.next_unit;
  }
}

}  // namespace cuda
}  // namespace convinit
