// The comparing kernel's body on the host: every thread of several grids, over lists of every distribution,
// dtype and layout. What it finds must be what the CPU's engine finds: nothing, some elements, all of them.
// No memory outside a tensor may be read, which AddressSanitizer finds out. Run by `make sanitize`.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <vector>

#include "block_on_cpu.h"
#include "core/dtype.h"
#include "cpu/engine.h"
#include "cuda/task_list_host.h"
#include "distributions.h"
#include "layouts.h"

namespace {

using namespace convinit;  // NOLINT: this is a test of that namespace

const RunWorkers kHere = [](int64_t, const std::function<void()>& worker) { worker(); };

// A tensor alone in its memory, which begins at a multiple of 16 but for `shift` elements. It holds what it
// is compared with, but for bits of the elements whose numbers, as they lie, are `first` and every `step`-th
// after it.
class Tensor {
 public:
  Tensor(const Layout& layout, const Distribution& distribution, DType dtype, int64_t shift, uint64_t number)
      : layout_(layout),
        distribution_(distribution),
        dtype_(dtype),
        shift_(shift * scalar::item_size(dtype)),
        key_{0x0123456789abcdef ^ number, ~number},
        bytes_(static_cast<size_t>(shift_ + extent(layout.dims) * scalar::item_size(dtype))) {
    const FillTask task = this->task();
    fill(&task, 1, 1, kHere);
  }

  void spoil(int64_t first, int64_t step) {
    const int64_t size = scalar::item_size(dtype_);
    std::vector<int64_t> places{0};
    for (const Dim& dim : layout_.dims) {
      std::vector<int64_t> more;
      for (const int64_t place : places) {
        for (int64_t i = 0; i < dim.size; ++i) more.push_back(place + i * dim.data_stride);
      }
      places = more;
    }
    for (size_t i = static_cast<size_t>(first); i < places.size(); i += static_cast<size_t>(step)) {
      bytes_[static_cast<size_t>(shift_ + places[i] * size + (i % 3) % size)] ^= 0x10;
    }
  }

  FillTask task() {
    return {bytes_.data() + shift_,
            layout_.start,
            layout_.dims.data(),
            static_cast<int32_t>(layout_.dims.size()),
            dtype_,
            key_,
            distribution_};
  }

  void complain(const Grid& grid, const uint64_t* found, const Difference& wanted) const {
    std::printf(
        "grid %u x %u: %s, start %lld, at byte %lld, kind %d, dtype %d: %lld differ, first %lld, not %lld "
        "and %lld\n",
        grid.blocks, grid.threads, layout_.name, static_cast<long long>(layout_.start),
        static_cast<long long>(shift_), static_cast<int>(distribution_.kind), static_cast<int>(dtype_),
        static_cast<long long>(found[0]), static_cast<long long>(found[1]),
        static_cast<long long>(wanted.count), static_cast<long long>(wanted.first));
    std::exit(1);
  }

 private:
  Layout layout_;
  Distribution distribution_;
  DType dtype_;
  int64_t shift_;
  Key key_;
  std::vector<char> bytes_;
};

// Rows in the opposite order, and one that belongs to none.
void check(std::vector<Tensor>& tensors, const Grid& grid, const cuda::Measure& measure = {}) {
  std::vector<FillTask> tasks;
  std::vector<int64_t> rows;
  for (size_t t = 0; t < tensors.size(); ++t) {
    tasks.push_back(tensors[t].task());
    rows.push_back(static_cast<int64_t>(tensors.size() - t));
  }
  const auto num_tasks = static_cast<int64_t>(tasks.size());
  const int64_t room = cuda::largest_image<cuda::DeviceFill>(tasks.data(), num_tasks);
  std::vector<uint64_t> image(static_cast<size_t>(room) / sizeof(uint64_t)), found(2 * tasks.size() + 2);
  for (size_t i = 0; i < found.size(); ++i) found[i] = i % 2 == 0 ? 0 : cuda::kNone;
  const auto list = cuda::pack_fills(tasks.data(), rows.data(), num_tasks, measure);
  if (cuda::write_image(list, image.data()) > room) std::printf("a larger image than told\n");
  compare_on_grid(image.data(), grid.blocks, grid.threads, found.data());
  std::vector<Difference> wanted(tasks.size());
  compare(tasks.data(), num_tasks, 1, kHere, wanted.data());
  if (found[0] != 0 || found[1] != cuda::kNone) std::printf("a row of no tensor was written\n");
  for (size_t t = 0; t < tasks.size(); ++t) {
    const uint64_t* own = &found[2 * static_cast<size_t>(rows[t])];
    const bool right = static_cast<int64_t>(own[0]) == wanted[t].count &&
                       static_cast<int64_t>(own[1]) == (wanted[t].count == 0 ? -1 : wanted[t].first);
    if (!right) tensors[t].complain(grid, own, wanted[t]);
  }
}

// Every layout in every dtype, and every distribution in turn.
std::vector<Tensor> make_tensors() {
  const std::vector<Distribution> distributions = make_distributions();
  std::vector<Tensor> tensors;
  uint64_t number = 0;
  for (const Layout& layout : make_layouts()) {
    for (int dtype = 0; dtype < kNumDTypes; ++dtype) {
      for (int turn = 0; turn < 3; ++turn, ++number) {
        tensors.emplace_back(layout,
                             distributions[(number + number / distributions.size()) % distributions.size()],
                             static_cast<DType>(dtype), static_cast<int64_t>(number % 3), number);
      }
    }
  }
  return tensors;
}

void check_all(std::vector<Tensor>& all) {
  const cuda::Measure as_it_is, long_units{16, 1, 1 << 21}, shared_tasks{1, 4096, 300};
  for (const Grid& grid : kGrids) {
    for (const cuda::Measure& measure : {as_it_is, long_units, shared_tasks}) check(all, grid, measure);
  }
  for (size_t i = 0; i < all.size(); ++i) {  // alone
    std::vector<Tensor> one(1, all[i]);
    check(one, kGrids[i % std::size(kGrids)]);
  }
}

}  // namespace

int main() {
  std::vector<Tensor> all = make_tensors();
  check_all(all);
  for (size_t i = 0; i < all.size(); ++i)
    all[i].spoil(static_cast<int64_t>(i % 7), static_cast<int64_t>(i % 90 + 1));
  check_all(all);
  std::printf("no error in %zu tensors\n", all.size());
}
