// The float32 normal's logarithm, square root, sine and cosine at every 32-bit word, against double; prints
// JSON.
//
//     c++ -std=c++17 -O3 -march=native -ffp-contract=off -Icsrc benchmarks/quality/every_word.cpp -o
//     every_word
//     ./every_word [STEP]    # every STEP-th word; 1 unless said
//
// These are the formulas of csrc/core, the scalar lanes; tests hold every instruction set to the same bits.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "core/distribution.h"

namespace {

using namespace convinit::scalar;
constexpr uint64_t kWords = uint64_t{1} << 32;

struct Worst {
  double error = 0.0;
  uint64_t word = 0, not_finite = 0;

  void see(double found, double exact, double scale, uint64_t at) {
    if (!std::isfinite(found)) ++not_finite;
    const double off = std::fabs(found - exact) / scale;
    if (off > error) {
      error = off;
      word = at;
    }
  }
  void print(const char* name, const char* end) const {
    std::printf("\"%s\": {\"largest_error\": %.17g, \"word\": %llu, \"not_finite\": %llu}%s\n", name, error,
                static_cast<unsigned long long>(word), static_cast<unsigned long long>(not_finite), end);
  }
};

}  // namespace

int main(int count, char** arguments) {
  const uint64_t step = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  if (step == 0) {
    std::fprintf(stderr, "every_word: STEP must be a positive number\n");
    return 2;
  }
  Worst log, radius, cosine, sine;
  float last = -1.0f;
  for (uint64_t word = 0; word < kWords; word += step) {
    const float v = open_unit(static_cast<uint32_t>(word));
    if (v == last) continue;  // the word is rounded to a float first, and so all of these are one case
    last = v;
    const double exact = -2.0 * std::log(static_cast<double>(v));
    const float square = neg2log(v, 0.0f);
    log.see(square, exact, std::fmax(1.0, exact), word);
    radius.see(sqrt(square), std::sqrt(exact), std::fmax(1.0, std::sqrt(exact)), word);
  }
  // Quadrants differ in their two top bits alone: one sine and cosine for all four.
  const uint64_t quarter = kWords / 4;
  for (uint64_t fraction = 0; fraction < quarter; fraction += step) {
    const double x = static_cast<double>(static_cast<int64_t>(fraction) - (1 << 29)) * 0x1p-30;
    const double c = std::cos(M_PI_2 * x), s = std::sin(M_PI_2 * x);
    const double cosines[] = {c, -s, -c, s}, sines[] = {s, c, -s, -c};
    for (uint64_t quadrant = 0; quadrant < 4; ++quadrant) {
      const uint64_t word = quadrant * quarter + fraction;
      const Polar32 found = polar(1.0f, static_cast<uint32_t>(word));
      cosine.see(found.x, cosines[quadrant], 1.0, word);
      sine.see(found.y, sines[quadrant], 1.0, word);
    }
  }
  std::printf("{\n");
  log.print("-2 ln v, over max(1, it)", ",");
  radius.print("sqrt(-2 ln v), over max(1, it)", ",");
  cosine.print("cos t", ",");
  sine.print("sin t", "");
  std::printf("}\n");
  return 0;
}
