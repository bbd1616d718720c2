// SPDX-License-Identifier: Apache-2.0
// The calls of cuSOLVER that DartQuant::cuda makes, in plain column-major loops with LAPACK's packing.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "cuda/fake/device.hpp"

#include <cusolverDn.h>

struct cusolverDnContext {
  cudaStream_t stream = nullptr;
};

namespace {

namespace fake = dartquant::test::fake;

void demand(bool condition) {
  if (!condition) throw std::logic_error("[fake cusolver] a case that is not imitated");
}

/// Reflectors I - tau v v^T, v(k) = 1, below the diagonal; R on and above it.
void geqrf(double* a, std::int64_t n, std::int64_t ld, double* tau) {
  for (std::int64_t k = 0; k < n; ++k) {
    double below = 0;
    for (std::int64_t i = k + 1; i < n; ++i) below += a[i + k * ld] * a[i + k * ld];
    double const alpha = a[k + k * ld];
    if (below == 0) {
      tau[k] = 0;
      continue;
    }
    double const beta = -std::copysign(std::sqrt(alpha * alpha + below), alpha);
    tau[k] = (beta - alpha) / beta;
    for (std::int64_t i = k + 1; i < n; ++i) a[i + k * ld] /= alpha - beta;
    a[k + k * ld] = beta;
    for (std::int64_t j = k + 1; j < n; ++j) {
      double sum = a[k + j * ld];
      for (std::int64_t i = k + 1; i < n; ++i) sum += a[i + k * ld] * a[i + j * ld];
      a[k + j * ld] -= tau[k] * sum;
      for (std::int64_t i = k + 1; i < n; ++i) a[i + j * ld] -= tau[k] * sum * a[i + k * ld];
    }
  }
}

/// Q out of the reflectors.
void orgqr(double* a, int n, int ld, double const* tau) {
  std::vector<double> q(static_cast<std::size_t>(n) * static_cast<std::size_t>(n), 0.0);
  auto const at = [n](int i, int j) { return static_cast<std::size_t>(i + j * n); };
  for (int i = 0; i < n; ++i) q[at(i, i)] = 1;
  for (int k = n - 1; k >= 0; --k)
    for (int j = 0; j < n; ++j) {
      double sum = q[at(k, j)];
      for (int i = k + 1; i < n; ++i) sum += a[i + k * ld] * q[at(i, j)];
      q[at(k, j)] -= tau[k] * sum;
      for (int i = k + 1; i < n; ++i) q[at(i, j)] -= tau[k] * sum * a[i + k * ld];
    }
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < n; ++i) a[i + j * ld] = q[at(i, j)];
}

}  // namespace

extern "C" {

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* solver) {
  *solver = new cusolverDnContext;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t solver) {
  delete solver;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t solver, cudaStream_t stream) {
  solver->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params) {
  *params = reinterpret_cast<cusolverDnParams_t>(new int(0));
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
  delete reinterpret_cast<int*>(params);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXgeqrf_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, std::int64_t,
                                             std::int64_t, cudaDataType, void const*, std::int64_t,
                                             cudaDataType, void const*, cudaDataType, std::size_t* on_device,
                                             std::size_t* on_host) {
  *on_device = 56;
  *on_host = 0;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXgeqrf(cusolverDnHandle_t solver, cusolverDnParams_t, std::int64_t rows,
                                  std::int64_t n, cudaDataType type, void* a, std::int64_t ld, cudaDataType,
                                  void* tau, cudaDataType, void* space, std::size_t bytes, void*, std::size_t,
                                  int* info) {
  demand(rows == n && type == CUDA_R_64F && bytes == 56 && ld >= n);
  fake::require_device_memory("geqrf", space, bytes);
  fake::require_device_memory("geqrf", a, static_cast<std::size_t>((n - 1) * ld + n) * sizeof(double));
  fake::require_device_memory("geqrf", tau, static_cast<std::size_t>(n) * sizeof(double));
  fake::enqueue(solver->stream, [=] {
    geqrf(static_cast<double*>(a), n, ld, static_cast<double*>(tau));
    *info = 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDorgqr_bufferSize(cusolverDnHandle_t, int, int, int, double const*, int,
                                             double const*, int* work) {
  *work = 9;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDorgqr(cusolverDnHandle_t solver, int rows, int cols, int reflectors, double* a,
                                  int ld, double const* tau, double* work, int size, int* info) {
  demand(rows == cols && cols == reflectors && size == 9 && ld >= rows);
  fake::require_device_memory("orgqr", work, sizeof(double) * 9);
  fake::enqueue(solver->stream, [=] {
    orgqr(a, rows, ld, tau);
    *info = 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

}  // extern "C"
