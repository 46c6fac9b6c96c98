// See orthogonal.h. A matrix is cut into strips of columns, each in row-major order by itself: the columns
// that are factorised together, and what a product reads and writes in the order of memory.
#include "cpu/orthogonal.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cpu/float_environment.h"
#include "cpu/isa.h"

namespace convinit {
namespace {

constexpr int64_t kWidth = kStripColumns;
constexpr int64_t kSquare = kWidth * kWidth;
constexpr int64_t kRowsAtOnce = 128;   // of a strip: they stay in the first cache
constexpr int64_t kSmall = 128 * 128;  // elements, below which a second thread costs more than it brings
constexpr int64_t kRowGroup = 8;       // the rows of any tile divide it; those beyond the matrix are zeros

struct Free {
  void operator()(double* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<double[], Free>;

// For a multiple of eight numbers: whole lines of the cache.
Memory allocate(int64_t count) {
  auto* const memory =
      static_cast<double*>(std::aligned_alloc(64, static_cast<size_t>(count) * sizeof(double)));
  if (memory == nullptr)
    throw std::runtime_error("out of memory: a matrix is made orthogonal in a float64 copy of it");
  return Memory(memory);
}

// Calls visit(item, worker) for items 0 to count - 1, which are begun in this order.
template <class Visit>
void for_each(int64_t count, int64_t num_threads, const RunWorkers& run_workers, const Visit& visit) {
  std::atomic<int64_t> next_item{0}, next_worker{0};
  const auto work = [&] {
    const DefaultFloatEnvironment environment;
    const int64_t worker = next_worker++;
    for (int64_t item = next_item++; item < count; item = next_item++) visit(item, worker);
  };
  const int64_t num_workers = std::min(num_threads, count);
  if (num_workers > 1) return run_workers(num_workers, work);
  work();
}

struct Reflection {
  double beta, h, tau;
};

// That of a column whose diagonal is alpha, and whose squares below it sum up to `sum`.
Reflection reflection(double alpha, double sum) {
  if (sum == 0) return {alpha, 0, 0};
  const double norm = std::sqrt(std::fma(alpha, alpha, sum)), beta = alpha < 0 ? norm : -norm;
  return {beta, 1 / (alpha - beta), (beta - alpha) / beta};
}

// The factorisation of matrices of one shape, one after the other. Allocates when it is made, and never
// after.
class Factorisation {
 public:
  Factorisation(int64_t rows, int64_t columns, int64_t num_threads)
      : is_wide_(rows < columns),
        rows_(std::max(rows, columns)),
        columns_(std::min(rows, columns)),
        padded_rows_((rows_ + kRowGroup - 1) / kRowGroup * kRowGroup),
        num_strips_((columns_ + kWidth - 1) / kWidth),
        num_threads_(rows * columns < kSmall ? 1 : std::min(num_threads, num_strips_)),
        strips_(allocate(num_strips_ * padded_rows_ * kWidth)),
        factors_(allocate(num_strips_ * kSquare)),
        made_(allocate(num_threads_ * padded_rows_ * kWidth)),
        scales_(static_cast<size_t>(num_strips_ * kWidth)) {}

  template <class Real>
  void run(Real* matrix, double gain, const RunWorkers& run_workers) {
    const int64_t row_step = is_wide_ ? 1 : columns_, column_step = is_wide_ ? rows_ : 1;
    for_each(num_strips_, num_threads_, run_workers, [&](int64_t number, int64_t) {
      load(matrix + number * kWidth * column_step, row_step, column_step, number);
    });
    factorise(0, gain);
    for (int64_t done = 0; done + 1 < num_strips_; ++done) {
      for_each(num_strips_ - done - 1, num_threads_, run_workers, [&](int64_t item, int64_t) {
        update(done, done + 1 + item);
        if (item == 0) factorise(done + 1, gain);  // while the others are still at work
      });
    }
    for_each(num_strips_, num_threads_, run_workers, [&](int64_t item, int64_t worker) {
      const int64_t number = num_strips_ - 1 - item;  // the last ones have the most to do
      double* const made = made_.get() + worker * padded_rows_ * kWidth;
      make(number, made);
      store(made, row_step, column_step, number, matrix + number * kWidth * column_step);
    });
  }

 private:
  double* strip(int64_t number, int64_t row) const {
    return strips_.get() + (number * padded_rows_ + row) * kWidth;
  }
  // U: the product of a strip's reflections is I + V U' V'.
  double* factor(int64_t number) const { return factors_.get() + number * kSquare; }
  static int64_t first_row(int64_t number) { return number * kWidth; }
  int64_t width(int64_t number) const { return std::min(kWidth, columns_ - number * kWidth); }

  template <class Real>
  void load(const Real* from, int64_t row_step, int64_t column_step, int64_t number) const {
    double* const to = strip(number, 0);
    std::fill_n(to, padded_rows_ * kWidth, 0.0);
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j < width(number); ++j) to[i * kWidth + j] = from[i * row_step + j * column_step];
  }

  template <class Real>
  void store(const double* from, int64_t row_step, int64_t column_step, int64_t number, Real* to) const {
    const double* const scales = &scales_[number * kWidth];
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j < width(number); ++j)
        to[i * row_step + j * column_step] = static_cast<Real>(from[i * kWidth + j] * scales[j]);
  }

  // A strip's columns become the vectors of their reflections, V, with zeros in place of R.
  void factorise(int64_t number, double gain) {
    std::fill_n(factor(number), kSquare, 0.0);
    for (int64_t p = 0; p < width(number); ++p) {
      double* const row = strip(number, first_row(number) + p);
      double* const below = row + kWidth;
      const int64_t num_below = padded_rows_ - first_row(number) - p - 1;
      double g[kWidth] = {}, steps[kWidth] = {};
      multiply_(below + p, 0, kWidth, below, g, 1, num_below);
      const Reflection made = reflection(row[p], g[p]);
      scales_[first_row(number) + p] = made.beta < 0 ? -gain : gain;
      for (int64_t j = 0; j < kWidth; ++j) g[j] = std::fma(g[j], made.h, row[j]);
      for (int64_t j = p + 1; j < kWidth; ++j) steps[j] = -(made.tau * g[j]);
      for (int64_t i = 0; i < num_below; ++i) below[i * kWidth + p] *= made.h;
      multiply_(below + p, kWidth, 0, steps, below, num_below, 1);
      row[p] = 1;
      std::fill(row + p + 1, below, 0.0);
      extend(factor(number), p, g, made.tau);
    }
  }

  // Row p of U, from those before it.
  void extend(double* u, int64_t p, const double* g, double tau) const {
    double sums[kWidth] = {};
    multiply_(g, 0, 1, u, sums, 1, p);
    for (int64_t q = 0; q < p; ++q) u[p * kWidth + q] = -(tau * sums[q]);
    u[p * kWidth + p] = -tau;
  }

  // The reflections of strip `done` on another: C + V U V' C.
  void update(int64_t done, int64_t number) const {
    double* const to = strip(number, first_row(done));
    double products[kSquare] = {}, steps[kSquare] = {};
    project(done, to, 0, padded_rows_ - first_row(done), products);
    multiply_(factor(done), kWidth, 1, products, steps, kWidth, kWidth);
    add(done, steps, to);
  }

  // A strip of the product of all reflections, the last ones first. Each finds zeros in the rows that the
  // later ones have not reached, but for the strip's own ones.
  void make(int64_t number, double* made) const {
    std::fill_n(made, padded_rows_ * kWidth, 0.0);
    for (int64_t j = 0; j < width(number); ++j) made[(first_row(number) + j) * kWidth + j] = 1;
    for (int64_t of = number; of >= 0; --of) {
      double* const to = made + first_row(of) * kWidth;
      double products[kSquare] = {}, steps[kSquare] = {};
      if (of == number)
        project(of, to, 0, width(number), products);
      else
        project(of, to, kWidth, padded_rows_ - first_row(of), products);
      multiply_(factor(of), 1, kWidth, products, steps, kWidth, kWidth);
      add(of, steps, to);
    }
  }

  // Adds V' C, where C is zero before row `begin` and from row `end` on, counted from the strip's own first.
  void project(int64_t number, const double* c, int64_t begin, int64_t end, double* products) const {
    const double* const v = strip(number, first_row(number));
    for (int64_t row = begin; row < end; row += kRowsAtOnce)
      multiply_(v + row * kWidth, 1, kWidth, c + row * kWidth, products, kWidth,
                std::min(kRowsAtOnce, end - row));
  }

  // C + V Y
  void add(int64_t number, const double* y, double* c) const {
    multiply_(strip(number, first_row(number)), kWidth, 1, y, c, padded_rows_ - first_row(number), kWidth);
  }

  const MultiplyFunction multiply_ = current_table().multiply;
  const bool is_wide_;
  const int64_t rows_, columns_, padded_rows_, num_strips_, num_threads_;
  const Memory strips_, factors_, made_;
  std::vector<double> scales_;
};

}  // namespace

template <class Real>
void make_orthogonal(const Matrices<Real>& matrices, double gain, int64_t num_threads,
                     const RunWorkers& run_workers) {
  const int64_t num_each = matrices.rows * matrices.columns;
  const bool side_by_side = matrices.count >= num_threads;
  std::vector<std::unique_ptr<Factorisation>> workers(side_by_side ? num_threads : 1);
  for (auto& worker : workers)
    worker = std::make_unique<Factorisation>(matrices.rows, matrices.columns, side_by_side ? 1 : num_threads);
  for_each(matrices.count, static_cast<int64_t>(workers.size()), run_workers,
           [&](int64_t number, int64_t worker) {
             workers[worker]->run(matrices.data + number * num_each, gain, run_workers);
           });
}

template void make_orthogonal(const Matrices<float>&, double, int64_t, const RunWorkers&);
template void make_orthogonal(const Matrices<double>&, double, int64_t, const RunWorkers&);

}  // namespace convinit
