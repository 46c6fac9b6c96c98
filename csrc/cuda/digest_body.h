// The digest kernel's body: what a block of threads adds to the sums of a task list's tensors. It is written
// for a team of threads that do one step each and then wait for each other: the GPU's block in digest.cu, a
// loop on the host in the tests.
//
// A team has: each(step), which calls step(Thread, Sums*) in every thread, with sums of the thread's own, and
// returns when all have; and add(uint64_t*, uint64_t), which other blocks may do at the same time.
#pragma once

#include "cuda/weigh_run.h"
#include "cuda/weigh_segments.h"

namespace convinit {
namespace cuda {

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
