// round_vectors.cpp as a program, for a processor that is emulated: floats come from its standard input, and
// their bits as the type that its argument names go to its standard output.
#include "round_vectors.cpp"

#include <cstdio>
#include <string>

template <class Out>
static void round_stdin(void (*round)(const float*, int64_t, Out*)) {
  float group[4 * kBlocks];
  Out bits[4 * kBlocks];
  while (fread(group, sizeof group, 1, stdin) == 1) {
    round(group, 4 * kBlocks, bits);
    fwrite(bits, sizeof bits, 1, stdout);
  }
}

int main(int, char** arguments) {
  const std::string dtype = arguments[1];
  if (dtype == "float16") round_stdin(round_float16);
  if (dtype == "bfloat16") round_stdin(round_bfloat16);
  if (dtype == "float8_e4m3fn") round_stdin(round_float8_e4m3fn);
  if (dtype == "float8_e5m2") round_stdin(round_float8_e5m2);
}
