// What lets one set of headers serve host and device: the function prefix, and the name of the lanes.
// A source file that compiles the formulas for another lane type defines CONVINIT_LANES first
// (cpu/fill_avx2.cpp).
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define CONVINIT_HD static __host__ __device__ __forceinline__
#else
// Internal linkage: a shared inline symbol could be resolved by the linker to a copy for another instruction
// set.
#define CONVINIT_HD static inline __attribute__((always_inline, unused))
#endif

// Before a loop of a fixed, small number of turns: its arrays become registers.
#if defined(__CUDACC__) || defined(__clang__)
#define CONVINIT_UNROLL _Pragma("unroll")
#else
#define CONVINIT_UNROLL _Pragma("GCC unroll 32")
#endif

#ifndef CONVINIT_LANES
#define CONVINIT_LANES scalar
#define CONVINIT_SCALAR_LANES 1
#endif
