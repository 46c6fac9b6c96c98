// The digest kernel's body on the host: every thread of several grids, over lists of every layout and size of
// element. Sums must be the CPU engine's, and nothing outside a tensor may be read, which AddressSanitizer
// finds out. Run by `make sanitize`.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "block_on_cpu.h"
#include "cpu/engine.h"
#include "cuda/task_list_host.h"
#include "layouts.h"

namespace {

using namespace convinit;  // NOLINT: this is a test of that namespace

std::vector<Layout> make_layouts_to_read() {
  std::vector<Layout> layouts = make_layouts();
  for (int64_t length : {1021, 1024, 4096, 5000, 70001}) {
    for (int64_t start : {0, 1, 3, 1023, 4095, 8192}) layouts.push_back({"chunks", start, {{length, 1, 1}}});
  }
  layouts.push_back({"one element in all places", 2, {{77, 0, 31}, {31, 0, 1}}});
  layouts.push_back({"one row again and again", 0, {{50, 0, 1000}, {1000, 1, 1}}});
  layouts.push_back({"long rows", 17, {{9, 3100, 2999}, {2999, 1, 1}}});
  layouts.push_back({"few columns, many chunks", 5, {{3000, 3, 700}, {2, 1, 1}}});
  return layouts;
}

// A tensor alone in its memory, `shift_bytes` after a multiple of 16.
class Tensor {
 public:
  Tensor(const Layout& layout, int64_t item_size, int64_t shift_bytes, uint64_t number)
      : layout_(layout),
        key_{0x0123456789abcdef ^ number, ~number},
        item_size_(item_size),
        shift_(shift_bytes) {
    bytes_.resize(static_cast<size_t>(shift_ + extent(layout.dims) * item_size));
    uint64_t state = number;
    for (unsigned char& byte : bytes_) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      byte = static_cast<unsigned char>(state >> 56);
    }
  }

  DigestTask task() const {
    return {bytes_.data() + shift_,
            layout_.start,
            layout_.dims.data(),
            static_cast<int32_t>(layout_.dims.size()),
            static_cast<int32_t>(item_size_),
            key_};
  }

  // Of the CPU's engine.
  void expect(uint64_t* sums) const {
    const DigestTask task = this->task();
    digest(&task, 1, 1, [](int64_t, const std::function<void()>& worker) { worker(); }, sums);
  }

  void complain() const {
    std::printf("%s, start %lld, elements of %lld bytes, at byte %lld: wrong sums\n", layout_.name,
                static_cast<long long>(layout_.start), static_cast<long long>(item_size_),
                static_cast<long long>(shift_));
    std::exit(1);
  }

 private:
  Layout layout_;
  Key key_;
  int64_t item_size_, shift_;
  std::vector<unsigned char> bytes_;
};

void check(const std::vector<Tensor>& tensors, const std::vector<uint64_t>& expected, const Grid& grid,
           const cuda::DigestMeasure& measure = {}) {
  std::vector<DigestTask> tasks;
  std::vector<int64_t> rows;
  for (const Tensor& tensor : tensors) {
    rows.push_back(static_cast<int64_t>(tasks.size()));
    tasks.push_back(tensor.task());
  }
  const auto num_tasks = static_cast<int64_t>(tasks.size());
  const int64_t room = cuda::largest_image<cuda::DeviceDigest>(tasks.data(), num_tasks);
  std::vector<uint64_t> image(static_cast<size_t>(room) / sizeof(uint64_t)), sums(expected.size());
  const auto list = cuda::pack_digests(tasks.data(), rows.data(), num_tasks, measure);
  if (cuda::write_image(list, image.data()) > room) std::printf("a larger image than told\n");
  digest_on_grid(image.data(), grid.blocks, grid.threads, sums.data());
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (std::equal(&sums[t * kSums], &sums[t * kSums] + kSums, &expected[t * kSums])) continue;
    std::printf("grid %u x %u: ", grid.blocks, grid.threads);
    tensors[t].complain();
  }
}

std::vector<Tensor> make_tensors() {
  std::vector<Tensor> tensors;
  uint64_t number = 0;
  for (const Layout& layout : make_layouts_to_read()) {
    const bool anywhere =
        layout.dims.size() == 1 && layout.dims[0].data_stride == 1 && layout.dims[0].index_stride == 1;
    for (int64_t item_size : {1, 2, 4, 8}) {
      for (int turn = 0; turn < 3; ++turn) {
        const auto shift = static_cast<int64_t>(++number % 17);
        // Only a run may lie at any byte.
        tensors.emplace_back(layout, item_size, anywhere ? shift : shift / item_size * item_size, number);
      }
    }
  }
  return tensors;
}

}  // namespace

int main() {
  const std::vector<Tensor> all = make_tensors();
  std::vector<uint64_t> expected(all.size() * kSums);
  for (size_t t = 0; t < all.size(); ++t) all[t].expect(&expected[t * kSums]);
  const cuda::DigestMeasure as_it_is, long_units{64, 1}, units_of_three{3, 1};
  for (const Grid& grid : kGrids) {
    for (const cuda::DigestMeasure& measure : {as_it_is, long_units, units_of_three}) {
      check(all, expected, grid, measure);
    }
  }
  for (size_t t = 0; t < all.size(); ++t) {  // alone
    const auto own = expected.begin() + static_cast<int64_t>(t * kSums);
    check({all[t]}, {own, own + kSums}, kGrids[t % std::size(kGrids)]);
  }
  std::printf("no error in %zu tensors\n", all.size());
}
