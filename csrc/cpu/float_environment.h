// Sets the processor's default rounding for a scope: a caller may have asked for flush-to-zero
// (torch.set_flush_denormal) or another rounding mode, and a value must not depend on it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace convinit {

// The register that says it, and its value for nearest even, denormals kept, every exception masked.
#if defined(__x86_64__)
constexpr uint64_t kDefaultFloatControl = 0x1f80;
inline uint64_t float_control() { return _mm_getcsr(); }
inline void set_float_control(uint64_t control) { _mm_setcsr(static_cast<unsigned>(control)); }
#elif defined(__aarch64__)
constexpr uint64_t kDefaultFloatControl = 0;
inline uint64_t float_control() {
  uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}
inline void set_float_control(uint64_t control) { __asm__ volatile("msr fpcr, %0" : : "r"(control)); }
#else
constexpr uint64_t kDefaultFloatControl = 0;
inline uint64_t float_control() { return kDefaultFloatControl; }
inline void set_float_control(uint64_t) {}
#endif

class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() : saved_(float_control()) { set_float_control(kDefaultFloatControl); }
  ~DefaultFloatEnvironment() { set_float_control(saved_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  uint64_t saved_;
};

}  // namespace convinit
