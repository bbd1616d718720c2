// SPDX-License-Identifier: Apache-2.0
// Products of float and double matrices with AVX2 and FMA.

#include <immintrin.h>

#include <cstdint>

#include "cpu/gemm_panels.hpp"
#include "cpu/gemm_transpose.hpp"
#include "cpu/kernel_table.hpp"

namespace dartquant::cpu {
namespace {

struct Avx2Float {
  using Value = float;
  using Vector = __m256;
  using Mask = __m256i;
  static constexpr int lanes = 8, rows = 6, a_step = 8, square = 8;

  static Mask mask(std::int64_t count) {
    auto const all = static_cast<int>(smaller(count, lanes));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(all), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector set(float x) { return _mm256_set1_ps(x); }
  static Vector load(float const* at) { return _mm256_loadu_ps(at); }
  static Vector load(float const* at, Mask mask) { return _mm256_maskload_ps(at, mask); }
  static void store(float* at, Vector x) { _mm256_storeu_ps(at, x); }
  static void store(float* at, Mask mask, Vector x) { _mm256_maskstore_ps(at, mask, x); }
  static Vector fma(Vector x, Vector y, Vector z) { return _mm256_fmadd_ps(x, y, z); }
  static Vector mul(Vector x, Vector y) { return _mm256_mul_ps(x, y); }
  static void transpose(float const* const* rows_of, float* to, std::int64_t step) {
    transpose_square(rows_of, to, step);
  }
};

struct Avx2Double {
  using Value = double;
  using Vector = __m256d;
  using Mask = __m256i;
  static constexpr int lanes = 4, rows = 6, a_step = 8, square = 4;

  static Mask mask(std::int64_t count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(smaller(count, lanes)), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static Vector zero() { return _mm256_setzero_pd(); }
  static Vector set(double x) { return _mm256_set1_pd(x); }
  static Vector load(double const* at) { return _mm256_loadu_pd(at); }
  static Vector load(double const* at, Mask mask) { return _mm256_maskload_pd(at, mask); }
  static void store(double* at, Vector x) { _mm256_storeu_pd(at, x); }
  static void store(double* at, Mask mask, Vector x) { _mm256_maskstore_pd(at, mask, x); }
  static Vector fma(Vector x, Vector y, Vector z) { return _mm256_fmadd_pd(x, y, z); }
  static Vector mul(Vector x, Vector y) { return _mm256_mul_pd(x, y); }
  static void transpose(double const* const* rows_of, double* to, std::int64_t step) {
    transpose_square(rows_of, to, step);
  }
};

}  // namespace

TileKernels const avx2_tiles{{tile_scratch<Avx2Float>, multiply_tile<Avx2Float>},
                             {tile_scratch<Avx2Double>, multiply_tile<Avx2Double>}};

}  // namespace dartquant::cpu
