// What lets one set of headers serve host and device: how functions are declared, and the name of the lanes.
// A source file that compiles the formulas for another lane type defines CONVINIT_LANES first
// (cpu/fill_avx2.cpp).
#pragma once

// As far as compilers tell: nvcc 13 defines nothing for its --use_fast_math and -ftz, which setup.py refuses.
#if defined(__FAST_MATH__) || defined(__USE_FAST_MATH__) || defined(__CUDA_FTZ) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || __FINITE_MATH_ONLY__ > 0
#error \
    "convinit_ext must not be compiled with -ffast-math, --use_fast_math, -ftz=true or the like: values would change"
#endif

// CONVINIT_HD         a function of host and device
// CONVINIT_HD_METHOD  the same for a member function, static ones included
// CONVINIT_HD_CALLED  called on a GPU, not copied into its callers: what is long and seldom used, or too long
//                     to be there twice. On a CPU where a source file says so
// CONVINIT_DEVICE, CONVINIT_DEVICE_CALLED
//                     of threads that wait for each other: on a GPU only, where there is one
#if defined(__CUDACC__) || defined(__HIPCC__)
#define CONVINIT_HD static __host__ __device__ __forceinline__
#define CONVINIT_HD_METHOD __host__ __device__ __forceinline__
#define CONVINIT_HD_CALLED static __host__ __device__ __noinline__
#define CONVINIT_DEVICE static __device__ __forceinline__
#define CONVINIT_DEVICE_CALLED static __device__ __noinline__
#else
// Internal linkage: a shared inline symbol could be resolved by the linker to a copy for another instruction
// set. Builds that need not be fast define CONVINIT_INLINE without always_inline: a copy of every formula for
// every caller takes minutes to compile unoptimised, or under the sanitizers.
#ifndef CONVINIT_INLINE
#define CONVINIT_INLINE inline __attribute__((always_inline, unused))
#endif
#define CONVINIT_HD static CONVINIT_INLINE
#define CONVINIT_HD_METHOD inline __attribute__((always_inline))
#ifndef CONVINIT_HD_CALLED
#define CONVINIT_HD_CALLED CONVINIT_HD
#endif
#define CONVINIT_DEVICE CONVINIT_HD
#define CONVINIT_DEVICE_CALLED CONVINIT_HD
#endif

// Tells nvcc that a pointer is one to the device's main memory: stores through it are cheaper then.
#if defined(__CUDA_ARCH__)
#define CONVINIT_ASSUME_GLOBAL(pointer) __builtin_assume(__isGlobal(pointer))
#else
#define CONVINIT_ASSUME_GLOBAL(pointer) (void)(pointer)
#endif

// Before a loop of a fixed, small number of turns: its arrays become registers.
#if defined(__CUDACC__) || defined(__clang__)
#define CONVINIT_UNROLL _Pragma("unroll")
#else
#define CONVINIT_UNROLL _Pragma("GCC unroll 32")
#endif

// Before a loop that a compiler had better not copy.
#if defined(__CUDACC__) || defined(__clang__)
#define CONVINIT_NO_UNROLL _Pragma("unroll 1")
#else
#define CONVINIT_NO_UNROLL _Pragma("GCC unroll 1")
#endif

#ifndef CONVINIT_LANES
#define CONVINIT_LANES scalar
#define CONVINIT_SCALAR_LANES 1
#endif
