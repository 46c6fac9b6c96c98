// The digest kernel's body: what a block of threads, a team (task_list.h), adds to the sums of a task list's
// tensors. Layouts other than runs are read element by element.
#pragma once

#include "cuda/digest_run.h"

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
CONVINIT_DEVICE void add_segment(const DeviceDigest& task, Segment segment, const Shared& shared,
                                 Sums* sums) {
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
CONVINIT_DEVICE void add_segments(const DeviceDigest& task, const Dim* digits, const Visit& visit,
                                  const Thread& thread, const Shared& shared, Sums* sums) {
  CONVINIT_NO_UNROLL
  for (int64_t item = visit.begin + thread.number; item < visit.end; item += thread.num_threads) {
    add_segment<Item>(task, segment_of(task, digits, item), shared, sums);
  }
}

template <class Team>
CONVINIT_DEVICE void add_run(const DeviceDigest& task, const Visit& visit, Team* team, Shared* shared) {
  const Chunks chunks = chunks_of(task, visit);
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

template <class Team>
CONVINIT_DEVICE void add_other_layout(const DeviceDigest& task, const Dim* digits, const Visit& visit,
                                      Team* team, const Shared& shared) {
  team->each([&](const Thread& thread, Sums* sums) {
    switch (task.item_size) {
      case 8:
        return add_segments<uint64_t>(task, digits, visit, thread, shared, sums);
      case 4:
        return add_segments<uint32_t>(task, digits, visit, thread, shared, sums);
      case 2:
        return add_segments<uint16_t>(task, digits, visit, thread, shared, sums);
      default:
        return add_segments<uint8_t>(task, digits, visit, thread, shared, sums);
    }
  });
}

// Adds the threads' sums to the task's row, in two steps, and begins anew.
template <class Team>
CONVINIT_DEVICE void hand_in(const DeviceDigest& task, Team* team, Shared* shared, uint64_t* rows) {
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

// Everything that block number `block` does.
template <class Team>
CONVINIT_DEVICE void digest_body(const void* image, uint32_t block, uint32_t num_blocks, Team* team,
                                 Shared* shared, uint64_t* rows) {
  const TaskList<DeviceDigest> list = open_image<DeviceDigest>(image);
  team->each([&](const Thread& thread, Sums*) { make_table(thread, shared->table); });
  const auto digest_visit = [&](const Visit& visit) {
    const DeviceDigest& task = list.tasks[visit.task];
    if (task.shape == Shape::kRun) {
      add_run(task, visit, team, shared);
    } else {
      add_other_layout(task, list.digits, visit, team, *shared);
    }
  };
  visit_units(list, block, num_blocks, team, digest_visit,
              [&](const DeviceDigest& task) { hand_in(task, team, shared, rows); });
}

}  // namespace cuda
}  // namespace convinit
