// The float32 normal's logarithm, square root, sine and cosine at every 32-bit word, and the truncated
// normal's quantile within cuts that take each of its ways, against double; prints JSON.
//
//     c++ -std=c++17 -O3 -march=native -ffp-contract=off -pthread -Icsrc benchmarks/quality/every_word.cpp -o
//     every_word
//     ./every_word [STEP]    # every STEP-th word; 1 unless said: some minutes of a processor
//
// These are the formulas of csrc/core, the scalar lanes; tests hold every instruction set to the same bits.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <iterator>
#include <vector>

#include "core/distribution.h"
#include "core/prepare.h"

namespace {

using namespace convinit::scalar;
constexpr uint64_t kWords = uint64_t{1} << 32;

struct Range {
  uint64_t begin, end, step;
};

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
  void join(const Worst& other) {
    not_finite += other.not_finite;
    if (other.error > error) {
      error = other.error;
      word = other.word;
    }
  }
  void print(const char* name, const char* end) const {
    std::printf("\"%s\": {\"largest_error\": %.17g, \"word\": %llu, \"not_finite\": %llu}%s\n", name, error,
                static_cast<unsigned long long>(word), static_cast<unsigned long long>(not_finite), end);
  }
};

// The standard normal, by the C library alone. The mass beyond z >= 0; and that between 0 and z.
double beyond(double z) { return 0.5 * std::erfc(z * M_SQRT1_2); }
double up_to(double z) { return 0.5 * std::erf(z * M_SQRT1_2); }
double density(double z) { return M_SQRT1_2 * M_2_SQRTPI / 2 * std::exp(-0.5 * z * z); }

// Newton's method, from a guess: which z has that mass beyond it, by the masses' logarithms; which has it
// between 0 and itself. A step this small leaves an error that is the square of it.
constexpr double kLastStep = 1e-8;
constexpr int kMostSteps = 100;
template <class Step>
double solved(double z, Step step) {
  for (int i = 0; i < kMostSteps; ++i) {
    const double by = step(z);
    z += by;
    if (std::fabs(by) <= kLastStep * std::fabs(z)) return z;
  }
  std::fprintf(stderr, "every_word: Newton's method came to no end\n");
  std::exit(1);
}
double with_beyond(double mass, double z) {
  return solved(z, [=](double at) { return std::log(beyond(at) / mass) * beyond(at) / density(at); });
}
double with_up_to(double mass, double z) {
  return solved(z, [=](double at) { return (mass - up_to(at)) / density(at); });
}

struct Cut {
  const char* name;
  double low, high;

  // The quantile at u = (word + 1/2) 2^-32; `z` is a guess, one at a smaller word.
  double exact(uint64_t word, double z) const {
    constexpr long double kMiddle = 0.2L;
    const long double u = (word + 0.5L) / kWords, rest = (kWords - word - 0.5L) / kWords;
    const long double middle = rest * up_to(low) + u * up_to(high);
    if (std::fabs(middle) < kMiddle) return with_up_to(middle, std::fmax(z, -1.0));
    if (middle > 0) return with_beyond(rest * beyond(low) + u * beyond(high), std::fmax(z, 0.0));
    return -with_beyond(rest * beyond(-low) + u * beyond(-high), std::fmax(-z, 0.0));
  }
};

// The ways of csrc/core: near the median; that with more than half of the words below it; also far out; far
// out alone; an interval so narrow that its density is nearly a line.
constexpr Cut kCuts[] = {
    {"[-2, 2]", -2, 2},          {"[-4, 1]", -4, 1},     {"[3, inf)", 3, INFINITY},
    {"[10, inf)", 10, INFINITY}, {"[1, 1.01]", 1, 1.01},
};

// What the contract allows: 1e-5 |z|, or 1e-10 where that is more.
double allowed(double z) { return std::fmax(1e-5 * std::fabs(z), 1e-10); }

// All values within a cut. Of neighbours with one value the first and the last have the largest errors, since
// the exact values go one way.
struct Quantile {
  Worst sigmas, share;
  uint64_t falls = 0;  // how often a value is less than that of the word before
  double largest_fall = 0.0;

  Quantile(const Cut& cut, Range range) {
    const convinit::Parameters<float> p =
        convinit::prepare_truncated_normal(0.0, 1.0, cut.low, cut.high).single;
    double exact = cut.low;
    const auto see = [&](float found, uint64_t word) {
      exact = cut.exact(word, exact);
      sigmas.see(found, exact, 1.0, word);
      share.see(found, exact, allowed(exact), word);
    };
    uint64_t word = range.begin == 0 ? 0 : range.begin - range.step;
    float last = TruncatedNormal::value(p, static_cast<uint32_t>(word)), last_d = NAN, last_t = NAN;
    see(last, word);
    for (word += range.step; word < range.end; word += range.step) {
      const float d = TruncatedNormal::above_less_below(p, static_cast<uint32_t>(word));
      const float t = TruncatedNormal::tail(p, static_cast<uint32_t>(word), d);
      if (!p.narrow && d == last_d && t == last_t) continue;  // they are all that the value is made of
      last_d = d;
      last_t = t;
      const float value = TruncatedNormal::value(p, static_cast<uint32_t>(word));
      if (value == last) continue;
      see(last, word - range.step);
      see(value, word);
      if (value < last) {
        ++falls;
        largest_fall = std::fmax(largest_fall, static_cast<double>(last) - value);
      }
      last = value;
    }
    see(last, word - range.step);
  }
  void join(const Quantile& other) {
    sigmas.join(other.sigmas);
    share.join(other.share);
    falls += other.falls;
    largest_fall = std::fmax(largest_fall, other.largest_fall);
  }
  void print(const char* name, const char* end) const {
    std::printf("\"%s\": {\n", name);
    sigmas.print("in sigmas", ",");
    share.print("of the allowed", ",");
    std::printf("\"falls\": %llu, \"largest_fall\": %.17g}%s\n", static_cast<unsigned long long>(falls),
                largest_fall, end);
  }
};

struct Logarithm {
  Worst log, radius;

  explicit Logarithm(Range range) {
    float last = -1.0f;
    for (uint64_t word = range.begin; word < range.end; word += range.step) {
      const float v = open_unit(static_cast<uint32_t>(word));
      if (v == last) continue;  // the word is rounded to a float first, and so all of these are one case
      last = v;
      const double exact = -2.0 * std::log(static_cast<double>(v));
      const float square = neg2log(v, 0.0f);
      log.see(square, exact, std::fmax(1.0, exact), word);
      radius.see(sqrt(square), std::sqrt(exact), std::fmax(1.0, std::sqrt(exact)), word);
    }
  }
  void join(const Logarithm& other) {
    log.join(other.log);
    radius.join(other.radius);
  }
};

struct Angle {
  Worst cosine, sine;

  // Quadrants differ in their two top bits alone: one sine and cosine for all four.
  explicit Angle(Range range) {
    for (uint64_t fraction = range.begin; fraction < range.end; fraction += range.step) {
      const double x = static_cast<double>(static_cast<int64_t>(fraction) - (1 << 29)) * 0x1p-30;
      const double c = std::cos(M_PI_2 * x), s = std::sin(M_PI_2 * x);
      const double cosines[] = {c, -s, -c, s}, sines[] = {s, c, -s, -c};
      for (uint64_t quadrant = 0; quadrant < 4; ++quadrant) {
        const uint64_t word = quadrant * (kWords / 4) + fraction;
        const Polar32 found = polar(1.0f, static_cast<uint32_t>(word));
        cosine.see(found.x, cosines[quadrant], 1.0, word);
        sine.see(found.y, sines[quadrant], 1.0, word);
      }
    }
  }
  void join(const Angle& other) {
    cosine.join(other.cosine);
    sine.join(other.sine);
  }
};

// What is found in all words below `end`, by threads that have a part of them each.
template <class Found, class... Arguments>
Found in_parts(uint64_t end, uint64_t step, const Arguments&... arguments) {
  constexpr uint64_t kParts = 16;
  const uint64_t each = (end / step / kParts + 1) * step;
  std::vector<std::future<Found>> parts;
  for (uint64_t begin = 0; begin < end; begin += each) {
    const Range range{begin, std::min(begin + each, end), step};
    parts.push_back(std::async(std::launch::async, [=] { return Found(arguments..., range); }));
  }
  Found whole = parts.front().get();
  for (size_t i = 1; i < parts.size(); ++i) whole.join(parts[i].get());
  return whole;
}

}  // namespace

int main(int count, char** arguments) {
  const uint64_t step = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  if (step == 0) {
    std::fprintf(stderr, "every_word: STEP must be a positive number\n");
    return 2;
  }
  const auto logarithm = in_parts<Logarithm>(kWords, step);
  const auto angle = in_parts<Angle>(kWords / 4, step);
  std::printf("{\"words\": {\n\"step\": %llu,\n", static_cast<unsigned long long>(step));
  logarithm.log.print("-2 ln v, over max(1, it)", ",");
  logarithm.radius.print("sqrt(-2 ln v), over max(1, it)", ",");
  angle.cosine.print("cos t", ",");
  angle.sine.print("sin t", "");
  std::printf("},\n\"quantiles\": {\n");
  for (const Cut& cut : kCuts) {
    in_parts<Quantile>(kWords, step, cut).print(cut.name, &cut == std::end(kCuts) - 1 ? "" : ",");
  }
  std::printf("}}\n");
  return 0;
}
