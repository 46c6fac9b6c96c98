// The sums of docs/fingerprint.md, section 4, of a list of tensors on the current CUDA device, on a stream.
// Knows nothing of torch, and includes no CUDA header, as fill.h.
#pragma once

#include "core/digest.h"
#include "cuda/launch.h"

namespace convinit {
namespace cuda {

// A tensor's memory on the device, and which part of a logical tensor it is. Dimensions as in
// core/fill_task.h; there is at least one element.
struct DigestInput {
  const void* data;
  int64_t start;  // linear index of the first element
  const Dim* dims;
  int32_t num_dims;
  int32_t item_size;  // bytes of an element: 1, 2, 4 or 8
  Key key;
  int64_t row;  // of the sums
};

// Device memory for them.
struct SumRows {
  uint64_t* sums;
  int64_t num_rows;  // of kSums each
};

// A list as one block of bytes, as fill.h's: the most that it can take, and how much it took.
int64_t digest_image_bytes(const DigestInput* inputs, int64_t num_inputs);
int64_t pack_digest(const DigestInput* inputs, int64_t num_inputs, void* image);

// As fill.h's launch. Writes all rows: those of no input are zero.
const char* launch_digest(const void* image, int64_t num_bytes, const void* device_image, const SumRows& rows,
                          Stream stream);

}  // namespace cuda
}  // namespace convinit
