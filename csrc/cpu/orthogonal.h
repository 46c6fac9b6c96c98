// Makes matrices orthogonal by the QR factorisation of docs/value-contract.md, section 8. Knows nothing of
// torch.
#pragma once

#include <cstdint>

#include "cpu/work_queue.h"

namespace convinit {

// Matrices in row-major order, one after the other.
template <class Real>
struct Matrices {
  Real* data;
  int64_t count, rows, columns;
};

// Each becomes `gain` times the orthonormal factor of what it was; where it has more columns than rows, of
// its transpose. The calling thread is in the default float environment (float_environment.h).
template <class Real>
void make_orthogonal(const Matrices<Real>& matrices, double gain, int64_t num_threads,
                     const RunWorkers& run_workers);

}  // namespace convinit
