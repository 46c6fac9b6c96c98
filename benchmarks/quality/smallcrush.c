// TestU01's batteries on 32-bit words from standard input, lowest byte first. Prints the statistics' names
// and p-values.
//
//     cc -O2 benchmarks/quality/smallcrush.c -ltestu01 -lprobdist -lmylib -lm -o build/smallcrush
//     python -m convinit_ext stream | build/smallcrush [crush | bigcrush] [reversed]
//
// "reversed" turns every word round: TestU01 looks at the high bits first, and hardly at the lowest.
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
      exit(1);
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

int main(int count, char** arguments) {
  void (*battery)(unif01_Gen*) = bbattery_SmallCrush;
  for (int i = 1; i < count; ++i) {
    if (strcmp(arguments[i], "reversed") == 0) {
      reversed = 1;
    } else if (strcmp(arguments[i], "crush") == 0) {
      battery = bbattery_Crush;
    } else if (strcmp(arguments[i], "bigcrush") == 0) {
      battery = bbattery_BigCrush;
    } else {
      fprintf(stderr, "smallcrush: unknown argument \"%s\"; accepted are crush, bigcrush, reversed\n",
              arguments[i]);
      return 2;
    }
  }
  swrite_Basic = 0;
  char name[] = "words";
  unif01_Gen* generator = unif01_CreateExternGenBits(name, next_word);
  battery(generator);
  unif01_DeleteExternGenBits(generator);
  for (int i = 0; i < bbattery_NTests; ++i) printf("= %s | %.17g\n", bbattery_TestNames[i], bbattery_pVal[i]);
  return 0;
}
