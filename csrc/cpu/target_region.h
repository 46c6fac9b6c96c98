// Compiles what stands between CONVINIT_TARGET_BEGIN and CONVINIT_TARGET_END for more than the baseline
// instruction set, whatever the command line says. System headers are included before it: their inline
// functions must stay baseline.
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
