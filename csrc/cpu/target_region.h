// Compiles what stands between CONVINIT_TARGET_BEGIN and CONVINIT_TARGET_END for more than the baseline
// instruction set, whatever the command line says.
//
// A function that two source files define, inline or from a template, is linked once, from either of them:
// one compiled for AVX-512 would then run on every machine. So everything in such a region is static or
// always inlined, in the instruction set's own namespace, and headers with other functions come before it.
// Files whose name ends in .inl are made for such a place, or for *.cu: they do not stand alone. All .h do.
#pragma once

#define CONVINIT_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define CONVINIT_TARGET_BEGIN(features) \
  CONVINIT_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define CONVINIT_TARGET_END CONVINIT_PRAGMA(clang attribute pop)
#else
#define CONVINIT_TARGET_BEGIN(features) \
  CONVINIT_PRAGMA(GCC push_options) CONVINIT_PRAGMA(GCC target(features))
#define CONVINIT_TARGET_END CONVINIT_PRAGMA(GCC pop_options)
#endif
