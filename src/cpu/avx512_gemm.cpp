// SPDX-License-Identifier: Apache-2.0
// Products of float and double matrices with AVX-512.

#include <immintrin.h>

#include <cstdint>

#if defined(__GNUC__) && !defined(__clang__)  // g++ 12 warns of its own undefined vectors
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "cpu/gemm_panels.hpp"
#include "cpu/gemm_transpose.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

struct Avx512Float {
  using Value = float;
  using Vector = __m512;
  using Mask = __mmask16;
  static constexpr int lanes = 16, rows = 14, a_step = 16, square = 8;

  static Mask mask(std::int64_t count) {
    return count >= lanes ? static_cast<Mask>(0xFFFF) : static_cast<Mask>((1u << count) - 1);
  }
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector set(float x) { return _mm512_set1_ps(x); }
  static Vector load(float const* at) { return _mm512_loadu_ps(at); }
  static Vector load(float const* at, Mask mask) { return _mm512_maskz_loadu_ps(mask, at); }
  static void store(float* at, Vector x) { _mm512_storeu_ps(at, x); }
  static void store(float* at, Mask mask, Vector x) { _mm512_mask_storeu_ps(at, mask, x); }
  static Vector fma(Vector x, Vector y, Vector z) { return _mm512_fmadd_ps(x, y, z); }
  static Vector mul(Vector x, Vector y) { return _mm512_mul_ps(x, y); }
  static void transpose(float const* const* rows_of, float* to, std::int64_t step) {
    transpose_square(rows_of, to, step);
  }
};

struct Avx512Double {
  using Value = double;
  using Vector = __m512d;
  using Mask = __mmask8;
  static constexpr int lanes = 8, rows = 14, a_step = 16, square = 4;

  static Mask mask(std::int64_t count) {
    return count >= lanes ? static_cast<Mask>(0xFF) : static_cast<Mask>((1u << count) - 1);
  }
  static Vector zero() { return _mm512_setzero_pd(); }
  static Vector set(double x) { return _mm512_set1_pd(x); }
  static Vector load(double const* at) { return _mm512_loadu_pd(at); }
  static Vector load(double const* at, Mask mask) { return _mm512_maskz_loadu_pd(mask, at); }
  static void store(double* at, Vector x) { _mm512_storeu_pd(at, x); }
  static void store(double* at, Mask mask, Vector x) { _mm512_mask_storeu_pd(at, mask, x); }
  static Vector fma(Vector x, Vector y, Vector z) { return _mm512_fmadd_pd(x, y, z); }
  static Vector mul(Vector x, Vector y) { return _mm512_mul_pd(x, y); }
  static void transpose(double const* const* rows_of, double* to, std::int64_t step) {
    transpose_square(rows_of, to, step);
  }
};

}  // namespace

TileKernels const avx512_tiles{{tile_scratch<Avx512Float>, multiply_tile<Avx512Float>},
                               {tile_scratch<Avx512Double>, multiply_tile<Avx512Double>}};

}  // namespace dartquant::cpu
