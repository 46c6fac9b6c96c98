// The op schemas, and the CPU's ops.
#include "torch/tasks.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>

#include "core/digest.h"
#include "cpu/engine.h"
#include "cpu/float_environment.h"
#include "cpu/orthogonal.h"

namespace convinit {
namespace {

using torch::headeronly::ScalarType;

void fill_cpu(const Tensors& tensors, const Tensor& keys, const Ints& kinds, const Floats& params,
              const Ints& box_starts, const Ints& box_strides) {
  for (const DeviceTasks& device : fill_tasks({tensors, keys, kinds, params, box_starts, box_strides})) {
    fill_on_cpu(device.tasks);
  }
}

void fill_one_cpu(const Tensor& tensor, const Tensor& key, int64_t kind, double p0, double p1, double p2,
                  double p3) {
  fill_on_cpu(fill_tasks(tensor, key, kind, {p0, p1, p2, p3}));
}

void fill_part_cpu(const Tensor& tensor, const Tensor& key, int64_t kind, double p0, double p1, double p2,
                   double p3, int64_t start, const Ints& strides) {
  fill_on_cpu(fill_tasks(tensor, key, kind, {p0, p1, p2, p3}, start, strides));
}

void check_cpu(const char* op, const Tensors& tensors) {
  for (const Tensor& tensor : tensors) {
    check(tensor.is_cpu(), op, ": unsupported device; accepted are CPU tensors");
  }
}

// An int64 tensor on the CPU, as keys is one, of a row for each tensor: `row` where there is no task, and
// what read(tasks, number, threads, run, results) finds.
template <class Row, class Task, class Read>
Tensor read_on_cpu(const Tensor& keys, size_t num_rows, const Row& row, const Tasks<Task>& tasks, Read read) {
  static_assert(sizeof(Row) % sizeof(int64_t) == 0, "made of 64-bit numbers");
  std::vector<Row> found(tasks.list.size());
  if (!found.empty())
    read(tasks.list.data(), tasks.size(), torch::stable::get_num_threads(), run_on_torch_threads,
         found.data());
  const Tensor result =
      torch::stable::new_zeros(keys, {static_cast<int64_t>(num_rows), sizeof(Row) / sizeof(int64_t)});
  auto* rows = static_cast<Row*>(result.mutable_data_ptr());
  std::fill_n(rows, num_rows, row);
  for (size_t i = 0; i < found.size(); ++i) rows[tasks.rows[i]] = found[i];
  return result;
}

struct Sums {
  uint64_t of[kSums];
};

Tensor digest_cpu(const Tensors& tensors, const Tensor& keys, const Ints& box_starts,
                  const Ints& box_strides) {
  check_cpu("digest", tensors);
  const DigestTasks tasks = digest_tasks(tensors, keys, box_starts, box_strides);
  const auto read = [](const DigestTask* list, int64_t size, int64_t num_threads, const RunWorkers& run,
                       Sums* sums) { digest(list, size, num_threads, run, sums->of); };
  return read_on_cpu(keys, tensors.size(), Sums{}, tasks, read);
}

Tensor compare_cpu(const Tensors& tensors, const Tensor& keys, const Ints& kinds, const Floats& params,
                   const Ints& box_starts, const Ints& box_strides) {
  check_cpu("compare", tensors);
  const FillTasks tasks = compare_tasks({tensors, keys, kinds, params, box_starts, box_strides});
  return read_on_cpu(keys, tensors.size(), Difference{0, -1}, tasks, compare);
}

template <class Real>
void make_orthogonal_of(const Tensor& matrices, double gain) {
  const DefaultFloatEnvironment environment;
  const Matrices<Real> given{static_cast<Real*>(matrices.mutable_data_ptr()), matrices.size(0),
                             matrices.size(1), matrices.size(2)};
  make_orthogonal(given, gain, torch::stable::get_num_threads(), run_on_torch_threads);
}

void make_orthogonal_cpu(const Tensor& matrices, double gain) {
  const char* const op = "make_orthogonal_";
  const bool is_single = matrices.scalar_type() == ScalarType::Float;
  check(is_single || matrices.scalar_type() == ScalarType::Double, op,
        ": unsupported dtype; accepted are float32 and float64");
  check(matrices.dim() == 3 && matrices.is_contiguous(), op,
        ": accepted are contiguous tensors [matrices, rows, columns]");
  if (matrices.numel() == 0) return;
  check_memory(op, matrices, matrices.const_data_ptr());
  is_single ? make_orthogonal_of<float>(matrices, gain) : make_orthogonal_of<double>(matrices, gain);
}

}  // namespace
}  // namespace convinit

STABLE_TORCH_LIBRARY(convinit_ext, m) {
  m.def(
      "fill_(Tensor(a!)[] tensors, Tensor keys, int[] kinds, float[] params, int[] box_starts, "
      "int[] box_strides) -> ()");
  m.def("fill_one_(Tensor(a!) tensor, Tensor key, int kind, float p0, float p1, float p2, float p3) -> ()");
  m.def(
      "fill_part_(Tensor(a!) tensor, Tensor key, int kind, float p0, float p1, float p2, float p3, "
      "int start, int[] strides) -> ()");
  m.def("digest(Tensor[] tensors, Tensor keys, int[] box_starts, int[] box_strides) -> Tensor");
  m.def(
      "compare(Tensor[] tensors, Tensor keys, int[] kinds, float[] params, int[] box_starts, "
      "int[] box_strides) -> Tensor");
  m.def("make_orthogonal_(Tensor(a!) matrices, float gain) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(convinit_ext, CPU, m) {
  m.impl("fill_", TORCH_BOX(&convinit::fill_cpu));
  m.impl("fill_one_", TORCH_BOX(&convinit::fill_one_cpu));
  m.impl("fill_part_", TORCH_BOX(&convinit::fill_part_cpu));
  m.impl("digest", TORCH_BOX(&convinit::digest_cpu));
  m.impl("compare", TORCH_BOX(&convinit::compare_cpu));
  m.impl("make_orthogonal_", TORCH_BOX(&convinit::make_orthogonal_cpu));
}
