// The GPU kernel's body on the host: every thread of several grids, one after the other, over lists of every
// distribution, dtype and layout. Values must be the CPU engine's to the bit, and what lies between and
// around a tensor's elements must stay as it was. Run by `make sanitize`.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "cpu/engine.h"
#include "cpu/isa.h"
#include "cuda/fill_body.h"
#include "cuda/task_list_host.h"
#include "distributions.h"
#include "layouts.h"

namespace {

using namespace convinit;  // NOLINT: this is a test of that namespace

constexpr char kUntouched = 0x5a;
constexpr int64_t kMargin = 64;  // bytes before and after a tensor

// A tensor, its margins, and what all of it must hold at the end.
class Tensor {
 public:
  Tensor(const Layout& layout, const Distribution& distribution, DType dtype, int64_t shift, uint64_t number)
      : layout_(layout),
        distribution_(distribution),
        dtype_(dtype),
        shift_(shift),
        key_{0x0123456789abcdef ^ number, ~number} {
    const int64_t bytes =
        2 * kMargin + shift * scalar::item_size(dtype) + extent(layout.dims) * scalar::item_size(dtype);
    storage_.resize(static_cast<size_t>(bytes) / sizeof(Line) + 1);
    std::memset(storage_.data(), kUntouched, storage_.size() * sizeof(Line));
    expected_ = bytes_of(storage_);
    FillTask task = this->task();
    task.data = expected_.data() + (static_cast<char*>(task.data) - reinterpret_cast<char*>(storage_.data()));
    fill(&task, 1, 1, [](int64_t, const std::function<void()>& worker) { worker(); });
  }

  FillTask task() {
    char* data = reinterpret_cast<char*>(storage_.data()) + kMargin + shift_ * scalar::item_size(dtype_);
    return {data,   layout_.start, layout_.dims.data(), static_cast<int32_t>(layout_.dims.size()),
            dtype_, key_,          distribution_};
  }

  void clear() { std::memset(storage_.data(), kUntouched, storage_.size() * sizeof(Line)); }

  void check(const Grid& grid) const {
    if (bytes_of(storage_) == expected_) return;
    std::printf("grid %u x %u: %s, start %lld, shift %lld, kind %d, dtype %d: wrong values\n", grid.blocks,
                grid.threads, layout_.name, static_cast<long long>(layout_.start),
                static_cast<long long>(shift_), static_cast<int>(distribution_.kind),
                static_cast<int>(dtype_));
    std::exit(1);
  }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };

  static std::vector<char> bytes_of(const std::vector<Line>& lines) {
    const auto* first = reinterpret_cast<const char*>(lines.data());
    return {first, first + lines.size() * sizeof(Line)};
  }

  Layout layout_;
  Distribution distribution_;
  DType dtype_;
  int64_t shift_;
  Key key_;
  std::vector<Line> storage_;
  std::vector<char> expected_;
};

void run_grid(const std::vector<uint64_t>& image, const Grid& grid) {
  for (uint32_t block = 0; block < grid.blocks; ++block) {
    for (uint32_t thread = 0; thread < grid.threads; ++thread) {
      cuda::fill_body(image.data(), block, grid.blocks, {thread, grid.threads});
    }
  }
}

void fill_and_check(std::vector<Tensor>& tensors, const Grid& grid, const cuda::Measure& measure = {}) {
  std::vector<FillTask> tasks;
  for (Tensor& tensor : tensors) {
    tensor.clear();
    tasks.push_back(tensor.task());
  }
  const auto num_tasks = static_cast<int64_t>(tasks.size());
  std::vector<uint64_t> image(
      static_cast<size_t>(cuda::largest_image<cuda::DeviceFill>(tasks.data(), num_tasks)) / sizeof(uint64_t));
  cuda::write_image(cuda::pack_fills(tasks.data(), nullptr, num_tasks, measure), image.data());
  run_grid(image, grid);
  for (const Tensor& tensor : tensors) tensor.check(grid);
}

// Every layout in every dtype, and every distribution in turn: three for each of these.
std::vector<Tensor> make_tensors() {
  const std::vector<Layout> layouts = make_layouts();
  const std::vector<Distribution> distributions = make_distributions();
  std::vector<Tensor> tensors;
  size_t number = 0;
  for (const Layout& layout : layouts) {
    for (int dtype = 0; dtype < kNumDTypes; ++dtype) {
      for (int turn = 0; turn < 3; ++turn, ++number) {
        const Distribution& distribution =
            distributions[(number + number / distributions.size()) % distributions.size()];
        tensors.emplace_back(layout, distribution, static_cast<DType>(dtype),
                             static_cast<int64_t>(number % 3), number);
      }
    }
  }
  return tensors;
}

}  // namespace

int main() {
  std::vector<Tensor> all = make_tensors();
  const cuda::Measure as_it_is, long_units{16, 1, 1 << 21}, shared_tasks{1, 4096, 300};
  for (const Grid& grid : kGrids) {
    for (const cuda::Measure& measure : {as_it_is, long_units, shared_tasks})
      fill_and_check(all, grid, measure);
  }
  // Alone: a list of one is cut otherwise, and is small enough for one unit.
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<Tensor> one(1, all[i]);
    fill_and_check(one, kGrids[i % std::size(kGrids)]);
  }
  std::printf("no error in %zu tensors\n", all.size());
}
