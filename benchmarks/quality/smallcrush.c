// TestU01's batteries on 32-bit words from standard input, lowest byte first. Prints the statistics' names
// and p-values, each test's when it has ended: "= NUMBER NAME | P". Words that come to an end are status 3.
//
//     cc -O2 benchmarks/quality/smallcrush.c -ltestu01 -lm -o build/smallcrush
//     python -m convinit_ext stream | build/smallcrush [crush | bigcrush] [reversed] [NUMBER ...]
//
// "reversed" turns every word round: TestU01 looks at the high bits first, and hardly at the lowest. Numbers
// choose some of the battery's tests. TestU01 as its authors release it also wants -lprobdist -lmylib.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <TestU01.h>

static int reversed = 0;

static unsigned int next_word(void) {
  static unsigned int words[1 << 14];
  static size_t at = 0, held = 0;
  if (at == held) {
    held = fread(words, sizeof *words, sizeof words / sizeof *words, stdin);
    at = 0;
    if (held == 0) {
      fputs("smallcrush: the words have come to an end\n", stderr);
      exit(3);
    }
  }
  unsigned int word = words[at++];
  if (reversed) {
    word = (word >> 1 & 0x55555555u) | (word & 0x55555555u) << 1;
    word = (word >> 2 & 0x33333333u) | (word & 0x33333333u) << 2;
    word = (word >> 4 & 0x0f0f0f0fu) | (word & 0x0f0f0f0fu) << 4;
    word = __builtin_bswap32(word);
  }
  return word;
}

typedef struct {
  const char* name;
  int num_tests;
  void (*run)(unif01_Gen*, int[]);  // each test as often as the array says, from its element 1 on
} Battery;

int main(int count, char** arguments) {
  static const Battery batteries[] = {{"smallcrush", 10, bbattery_RepeatSmallCrush},
                                      {"crush", 96, bbattery_RepeatCrush},
                                      {"bigcrush", 106, bbattery_RepeatBigCrush}};
  const Battery* battery = &batteries[0];
  int chosen[256] = {0}, num_chosen = 0;
  for (int i = 1; i < count; ++i) {
    const int number = atoi(arguments[i]), size = sizeof batteries / sizeof *batteries;
    int named = 0;
    while (named < size && strcmp(arguments[i], batteries[named].name) != 0) ++named;
    if (named < size) {
      battery = &batteries[named];
    } else if (strcmp(arguments[i], "reversed") == 0) {
      reversed = 1;
    } else if (number > 0 && number <= battery->num_tests) {
      num_chosen += chosen[number] = 1;
    } else {
      fprintf(stderr,
              "smallcrush: unknown argument \"%s\"; accepted are crush, bigcrush, reversed, and 1 to %d\n",
              arguments[i], battery->num_tests);
      return 2;
    }
  }
  swrite_Basic = 0;
  char name[] = "words";
  unif01_Gen* generator = unif01_CreateExternGenBits(name, next_word);
  for (int test = 1; test <= battery->num_tests; ++test) {
    if (num_chosen > 0 && !chosen[test]) continue;
    int repeats[256] = {0};
    repeats[test] = 1;
    battery->run(generator, repeats);
    for (int i = 0; i < bbattery_NTests; ++i)
      printf("= %d %s | %.17g\n", test, bbattery_TestNames[i], bbattery_pVal[i]);
    fflush(stdout);
  }
  unif01_DeleteExternGenBits(generator);
  return 0;
}
