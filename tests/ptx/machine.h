// What translated PTX calls (translate.py): the instructions that C++ has no sign for, and the machine that
// runs the threads and watches what they do with memory (machine.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

struct Kernel {
  const char* name;
  void (*run)(const char* const* given);
  std::vector<size_t> given_bytes;  // of each parameter
  unsigned most_threads;            // of a block
};
// A file's kernels, and the shared memory that a block of each has.
struct Module {
  Module(const char* file, std::vector<Kernel> kernels, size_t shared_bytes);
};

// The thread that runs.
struct Registers {
  uint32_t tid, ntid, ctaid, nctaid;
};
extern Registers machine;

enum Space { kGeneric, kGlobal, kShared, kLocal, kParam };
enum Use { kRead, kWrite, kAtomic };
// The place in memory, if the thread may use it so: everything else ends the program, and says the PTX's
// line. Addresses are the host's, but shared memory's begin at 0, since 32 bits hold those.
char* memory(uint64_t address, size_t size, Space space, Use use, int line);
void wait_for_block(int line);
[[noreturn]] void fail(int line, const char* what);

// Local memory of a function of the thread, while it runs.
struct Frame {
  Frame(char* begin, size_t size);
  ~Frame();
};

template <class To, class From>
To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From), "a float's register has its size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
template <class T>
T at(const char* from, int number) {
  T value;
  std::memcpy(&value, from + number * sizeof value, sizeof value);
  return value;
}
template <class T>
void put(char* to, int number, T value) {
  std::memcpy(to + number * sizeof value, &value, sizeof value);
}
template <class T>
T atomic_add(char* place, T value) {
  const T old = at<T>(place, 0);
  put<T>(place, 0, old + value);
  return old;
}
template <class T>
T atomic_min(char* place, T value) {
  const T old = at<T>(place, 0);
  if (value < old) put<T>(place, 0, value);
  return old;
}

inline uint64_t wide(uint32_t a) { return a; }
inline int64_t wide(int32_t a) { return a; }
template <class T>
T divided(T a, T b) {
  if (b == 0 || (std::is_signed_v<T> && b == T(-1))) fail(0, "division by 0, or by -1");
  return a / b;
}
template <class T>
T shifted_left(T a, uint32_t by) {
  return by < 8 * sizeof a ? static_cast<T>(a << by) : T(0);
}
template <class T>
T shifted_right(T a, uint32_t by) {  // by too much, the sign is left
  return static_cast<T>(by < 8 * sizeof a ? a >> by : a < 0 ? -1 : 0);
}
template <class T>
T with_bits(T bits, T into, uint32_t at, uint32_t length) {
  const T ones = shifted_left<T>(shifted_left<T>(1, length & 255) - 1, at & 255);
  return (into & ~ones) | (shifted_left<T>(bits, at & 255) & ones);
}
inline uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>((uint64_t{b} << 32 | a) >> 8 * (choice & 7)) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}

// A number rather than NaN, and -0 before 0.
template <class T>
T smaller(T a, T b) {
  if (std::isnan(a) || (a == b && std::signbit(b))) return b;
  return b < a ? b : a;
}

// In the bits of a format with so many bits of fraction, and the last finite number kLargest; what is larger
// is kBeyond. A carry goes on into the exponent.
template <int kFraction, int kBias, int kLargest, int kBeyond, int kNaN>
uint32_t rounded(float value, int sign_place) {
  if (std::isnan(value)) return kNaN;
  const double magnitude = std::fmin(std::fabs(static_cast<double>(value)), 0x1p200);
  const int exponent = std::max(magnitude == 0 ? 1 - kBias : std::ilogb(magnitude), 1 - kBias);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, kFraction - exponent)));
  const int bits = units + ((exponent + kBias - 1) << kFraction);
  return static_cast<uint32_t>((bits > kLargest ? kBeyond : bits) | std::signbit(value) << sign_place);
}
inline uint32_t to_f16(float x) { return rounded<10, 15, 0x7bff, 0x7c00, 0x7fff>(x, 15); }
inline uint32_t to_bf16(float x) { return rounded<7, 127, 0x7f7f, 0x7f80, 0x7fff>(x, 15); }
inline uint32_t to_e4m3(float x) { return rounded<3, 7, 0x7e, 0x7e, 0x7f>(x, 7); }
inline uint32_t to_e5m2(float x) { return rounded<2, 15, 0x7b, 0x7b, 0x7f>(x, 7); }
