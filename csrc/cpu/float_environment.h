// Sets the processor's default rounding for a scope: a caller may have asked for flush-to-zero
// (torch.set_flush_denormal) or another rounding mode, and a value must not depend on it.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace convinit {

#if defined(__x86_64__)
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  static constexpr unsigned kDefault = 0x1f80;  // nearest even, denormals kept, every exception masked
  unsigned saved_;
};
#else
class DefaultFloatEnvironment {};
#endif

}  // namespace convinit
