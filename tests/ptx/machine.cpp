// Runs kernels of translated PTX, thread after thread: the threads of a block in random order up to where
// they wait for each other, the blocks of a grid in random order. Ends the program, with the PTX's line,
// where a thread
//
// - touches memory that is not there, or is not aligned, or is a parameter and written;
// - reads shared memory that nobody has written, or that another thread writes between the same two barriers,
//   or writes what another one reads there;
// - writes what another thread of the same launch has written, or memory that the launch also reads.
#include "machine.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <random>

#include <ucontext.h>

#include "gpu.h"
#include "runtime.h"

Registers machine;

namespace {

struct Range {
  uint64_t begin, end;
  bool holds(uint64_t address, size_t size) const { return begin <= address && address + size <= end; }
};

// Device memory, and what the latest launch did with it. One launch does with an allocation one of Use.
struct Region : Range {
  uint64_t launch = 0;
  Use use = kRead;
  std::vector<uint64_t> writers;  // of each byte: launch and thread
};

// What happened to a byte of shared memory since the barrier.
constexpr int64_t kNobody = -1, kSeveral = -2;
struct Mark {
  uint32_t phase = 0;
  bool written = false;  // ever
  int64_t writer = kNobody, reader = kNobody;
};

struct Fiber {
  std::jmp_buf place;
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  std::vector<Range> frames;
  bool is_done = true;
  int waits_at = 0;
};

constexpr size_t kStackBytes = 256 * 1024;

std::map<uint64_t, Region> regions;
Region* latest_region = nullptr;
uint64_t launch_number = 0;
const Found* current = nullptr;
const char* const* given = nullptr;
std::vector<Range> parameters;
std::vector<char> shared;
std::vector<Mark> marks;
uint32_t phase = 0;
std::vector<Fiber> fibers;
Fiber* running = nullptr;
std::jmp_buf scheduler;
std::mt19937 random_order(1);  // NOLINT: the same every time

void watch_global(Region* region, uint64_t address, size_t size, Use use, int line) {
  if (region->launch == launch_number && region->use != use)
    fail(line, "one launch reads and writes this memory");
  region->launch = launch_number;
  region->use = use;
  if (use != kWrite) return;
  region->writers.resize(region->end - region->begin);
  const uint64_t mine = launch_number << 32 | (uint64_t{machine.ctaid} * machine.ntid + machine.tid);
  for (size_t i = 0; i < size; ++i) {
    uint64_t& writer = region->writers[address - region->begin + i];
    if (writer >> 32 == launch_number && writer != mine) fail(line, "two threads write this memory");
    writer = mine;
  }
}

void watch_shared(size_t offset, size_t size, Use use, int line) {
  const auto me = static_cast<int64_t>(machine.tid);
  const auto other = [&](int64_t thread) { return thread != kNobody && thread != me; };
  for (Mark* mark = &marks[offset]; mark < &marks[offset] + size; ++mark) {
    if (mark->phase != phase) *mark = {phase, mark->written, kNobody, kNobody};
    if (!mark->written && use != kWrite) fail(line, "reads shared memory that nobody has written");
    const bool both_atomic = use == kAtomic && mark->writer == kSeveral;
    if (other(mark->writer) && !both_atomic) fail(line, "a race: another thread writes this shared memory");
    if (use != kRead && other(mark->reader)) fail(line, "a race: another thread reads this shared memory");
    mark->written = true;
    if (use == kWrite) mark->writer = me;
    if (use == kAtomic && mark->writer == kNobody) mark->writer = kSeveral;
    if (use == kRead) mark->reader = mark->reader == kNobody || mark->reader == me ? me : kSeveral;
  }
}

Region* region_at(uint64_t address, size_t size) {
  if (latest_region != nullptr && latest_region->holds(address, size)) return latest_region;
  auto after = regions.upper_bound(address);
  if (after == regions.begin() || !std::prev(after)->second.holds(address, size)) return nullptr;
  return latest_region = &std::prev(after)->second;
}

bool any_holds(const std::vector<Range>& ranges, uint64_t address, size_t size) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& range) { return range.holds(address, size); });
}

// Back to the scheduler, until the thread is to go on.
void pause() {
  if (_setjmp(running->place) == 0) _longjmp(scheduler, 1);
}

void run_thread_after_thread() {
  for (;;) {
    current->kernel->run(given);
    running->is_done = true;
    running->waits_at = 0;
    pause();
  }
}

void resume(Fiber* fiber, uint32_t thread) {
  running = fiber;
  machine.tid = thread;
  if (_setjmp(scheduler) != 0) return;
  if (fiber->stack) _longjmp(fiber->place, 1);
  fiber->stack.reset(new char[kStackBytes]);
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber->context, run_thread_after_thread, 0);
  setcontext(&fiber->context);
}

void run_block(const std::vector<uint32_t>& threads) {
  std::fill(shared.begin(), shared.end(), char(0xa5));
  std::fill(marks.begin(), marks.end(), Mark());
  for (const uint32_t thread : threads) fibers[thread].is_done = false;
  for (size_t num_done = 0; num_done < threads.size();) {
    std::vector<uint32_t> order = threads;
    std::shuffle(order.begin(), order.end(), random_order);
    ++phase;
    num_done = 0;
    for (const uint32_t thread : order) {
      resume(&fibers[thread], thread);
      num_done += fibers[thread].is_done;
      const int line = fibers[thread].waits_at, first = fibers[order[0]].waits_at;
      if (line != first) fail(std::max(line, first), "some threads wait here, others do not");
    }
  }
}

}  // namespace

void run_grid(const Found& found, const std::vector<std::vector<char>>& values, uint32_t blocks,
              uint32_t threads) {
  ++launch_number;
  current = &found;
  std::vector<const char*> addresses;
  parameters.clear();
  for (const std::vector<char>& value : values) {
    addresses.push_back(value.data());
    const auto begin = reinterpret_cast<uint64_t>(value.data());
    parameters.push_back({begin, begin + value.size()});
  }
  given = addresses.data();
  shared.resize(found.shared_bytes);
  marks.resize(found.shared_bytes);
  if (fibers.size() < threads) fibers.resize(threads);
  std::vector<uint32_t> block_order(blocks), thread_order(threads);
  for (uint32_t i = 0; i < blocks; ++i) block_order[i] = i;
  for (uint32_t i = 0; i < threads; ++i) thread_order[i] = i;
  std::shuffle(block_order.begin(), block_order.end(), random_order);
  for (const uint32_t block : block_order) {
    machine = {0, threads, block, blocks};
    run_block(thread_order);
  }
}

void fail(int line, const char* what) {
  std::printf("%s, line %d: %s (block %u, thread %u)\n", current->file, line, what, machine.ctaid,
              machine.tid);
  std::fflush(stdout);
  std::_Exit(1);  // on a stack that exit() would free
}

char* memory(uint64_t address, size_t size, Space space, Use use, int line) {
  if (address % size != 0) fail(line, "this place in memory is not a multiple of its size");
  const bool anywhere = space == kGeneric;
  if (anywhere || space == kParam) {
    if (any_holds(parameters, address, size) && use == kRead) return reinterpret_cast<char*>(address);
  }
  if (space == kShared && Range{0, shared.size()}.holds(address, size)) {
    watch_shared(address, size, use, line);
    return &shared[address];
  }
  if (anywhere || space == kLocal) {
    if (any_holds(running->frames, address, size)) return reinterpret_cast<char*>(address);
  }
  Region* region = anywhere || space == kGlobal ? region_at(address, size) : nullptr;
  if (region == nullptr) fail(line, "there is no such memory, or it may not be used so");
  watch_global(region, address, size, use, line);
  return reinterpret_cast<char*>(address);
}

void wait_for_block(int line) {
  running->waits_at = line;
  pause();
}

Frame::Frame(char* begin, size_t size) {
  std::memset(begin, 0xa5, size);
  running->frames.push_back({reinterpret_cast<uint64_t>(begin), reinterpret_cast<uint64_t>(begin) + size});
}
Frame::~Frame() { running->frames.pop_back(); }

bool is_device_memory(const void* begin, size_t size) {
  return region_at(reinterpret_cast<uint64_t>(begin), size);
}

namespace gpu {

constexpr size_t kAlignment = 256;

Memory::Memory(size_t num_bytes, size_t after) : num_bytes_(num_bytes) {
  begin_ = static_cast<char*>(operator new(after + num_bytes, std::align_val_t(kAlignment))) + after;
  Region region;
  region.begin = reinterpret_cast<uint64_t>(begin_);
  region.end = region.begin + num_bytes;
  regions[region.begin] = region;
}

Memory::~Memory() {
  if (begin_ == nullptr) return;
  latest_region = nullptr;
  const auto begin = reinterpret_cast<uint64_t>(begin_);
  regions.erase(begin);
  operator delete(reinterpret_cast<void*>(begin / kAlignment * kAlignment), std::align_val_t(kAlignment));
}

}  // namespace gpu
