// Compiled by `make check-cuda`, never run: nvcc accepts every header of csrc/core, and every formula in
// device code.
#include "core/digest.h"
#include "core/distribution.h"
#include "core/dtype.h"
#include "core/lanes.h"
#include "core/macros.h"
#include "core/math.h"
#include "core/philox.h"
#include "core/prepare.h"
#include "core/task.h"

namespace convinit {
namespace scalar {

// Values of block number `threadIdx.x`, through to the rounding for storage.
template <class Sampler>
__device__ void write_block(const Distribution& distribution, const RoundKeys& keys, Half* half,
                            BFloat16* bfloat, double* wide) {
  const Values32 values = values_of_group(Sampler(), distribution.single, keys, threadIdx.x);
  for (int i = 0; i < kVectors32; ++i) {
    half[i] = to_half(values.even[i]);
    bfloat[i] = to_bfloat16(values.odd[i]);
  }
  const Values64 pair = values_of_group(Sampler(), distribution.real, keys, threadIdx.x);
  wide[0] = pair.even;
  wide[1] = pair.odd;
}

__global__ void every_formula(Distribution distribution, Key key, Half* half, BFloat16* bfloat,
                              double* wide) {
  const RoundKeys keys = make_round_keys(key, blockIdx.x);
  switch (distribution.kind) {
    case Kind::kUniform:
      return write_block<Uniform>(distribution, keys, half, bfloat, wide);
    case Kind::kNormal:
      return write_block<Normal>(distribution, keys, half, bfloat, wide);
    case Kind::kTruncatedNormal:
      return write_block<TruncatedNormal>(distribution, keys, half, bfloat, wide);
    case Kind::kConstant:
      *wide = distribution.real.value;
  }
}

__global__ void every_weight(Key key, uint32_t* table, uint64_t* factors) {
  table[threadIdx.x] = table_block(threadIdx.x).w0;
  factors[threadIdx.x] = factors_of(key, threadIdx.x).of[kSums - 1];
}

void launch_every_formula(Key key, Half* half, BFloat16* bfloat, double* wide) {
  const double params[4] = {0, 1, -2, 2};
  every_formula<<<1, 32>>>(prepare(Kind::kTruncatedNormal, params), key, half, bfloat, wide);
}

void launch_every_weight(Key key, uint32_t* table, uint64_t* factors) {
  every_weight<<<1, 32>>>(key, table, factors);
}

}  // namespace scalar
}  // namespace convinit
