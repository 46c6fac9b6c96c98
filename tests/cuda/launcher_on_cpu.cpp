// What the kernels' launchers share, csrc/cuda/launch.inl, with tests/fake_cuda in CUDA's place: how many
// blocks there are, and what remains of an error. Run by `make sanitize`.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/launch.inl"

namespace {

using namespace convinit::cuda;  // NOLINT: this is a test of that namespace

void kernel() {}
void other_kernel() {}

void check(bool condition, const char* what) {
  if (condition) return;
  std::printf("%s\n", what);
  std::exit(1);
}

unsigned grid_for(int64_t num_units) {
  unsigned grid = 0;
  check(grid_of<kernel>(256, num_units, &grid) == cudaSuccess, "no grid");
  return grid;
}

void test_grids() {
  check(grid_for(5) == 5, "a block for each unit, where there are few");
  check(grid_for(int64_t{1} << 40) == 12, "no more blocks than run at once");
  check(runtime.num_asked == 1, "CUDA is asked once for a device");
  runtime.device = 70;
  runtime.processors = 5;
  check(grid_for(100) == 20 && grid_for(100) == 20, "a device of a high number has its own grid");
  check(runtime.num_asked == 3, "it is asked for every time");
  runtime.device = 0;
  unsigned grid = 0;
  check(grid_of<other_kernel>(256, 100, &grid) == cudaSuccess && grid == 20, "another kernel has its own");
  check(grid_for(100) == 12, "which changes nothing");
}

void test_errors_are_told_and_forgotten() {
  for (const char* call : {"device", "attribute", "occupancy"}) {
    runtime.failing = call;
    runtime.device = 1;  // nothing is known of it
    unsigned grid = 0;
    const char* said = describe(grid_of<kernel>(256, 5, &grid));
    check(said != nullptr && std::strcmp(said, "no kernel image") == 0, call);
    check(cudaGetLastError() == cudaSuccess, "an error was left for the next who asks");
  }
  runtime.failing = "";
  check(grid_for(5) == 5, "an error is not remembered");
  check(describe(cudaSuccess) == nullptr, "no error is none");
}

void test_parameters() {
  Parameter parameter;
  char image[kParameterBytes + 8] = {1};
  check(set(&parameter, image, kParameterBytes) && parameter.bytes[0] == 1, "what fits is taken");
  check(!set(&parameter, image, kParameterBytes + 8), "what does not is not");
}

}  // namespace

int main() {
  test_grids();
  test_errors_are_told_and_forgotten();
  test_parameters();
  std::printf("no error\n");
}
