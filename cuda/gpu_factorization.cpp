// SPDX-License-Identifier: Apache-2.0
// Factorisations on cuSOLVER, always in FP64. Column-major libraries see a row-major lower triangle as an
// upper one.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <dartquant/cuda/gpu.hpp>

#include "machine.hpp"
#include "passes.hpp"

namespace dartquant::cuda {
namespace {

constexpr auto upper = CUBLAS_FILL_MODE_UPPER;

cublasStatus_t trmv(cublasHandle_t blas, cublasOperation_t op, int n, float const* L, int ldl, float* x) {
  return cublasStrmv(blas, upper, op, CUBLAS_DIAG_NON_UNIT, n, L, ldl, x, 1);
}
cublasStatus_t trmv(cublasHandle_t blas, cublasOperation_t op, int n, double const* L, int ldl, double* x) {
  return cublasDtrmv(blas, upper, op, CUBLAS_DIAG_NON_UNIT, n, L, ldl, x, 1);
}
cublasStatus_t trsv(cublasHandle_t blas, cublasOperation_t op, int n, float const* L, int ldl, float* x) {
  return cublasStrsv(blas, upper, op, CUBLAS_DIAG_NON_UNIT, n, L, ldl, x, 1);
}
cublasStatus_t trsv(cublasHandle_t blas, cublasOperation_t op, int n, double const* L, int ldl, double* x) {
  return cublasDtrsv(blas, upper, op, CUBLAS_DIAG_NON_UNIT, n, L, ldl, x, 1);
}

[[nodiscard]] int as_order(char const* who, index_t n) {
  detail::require(n <= std::numeric_limits<int>::max(), "[", who, "] order ", n, ": at most ",
                  std::numeric_limits<int>::max(), " is possible");
  return static_cast<int>(n);
}

/// The fixed start of Cpu::condition_estimate: a component along everything.
template <class T>
[[nodiscard]] std::vector<T> start_vector(index_t n) {
  std::vector<T> x(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i)
    x[static_cast<std::size_t>(i)] =
        static_cast<T>(1 + 0.5 * std::cos(2.3 * static_cast<double>(i * i % 1009)));
  return x;
}

}  // namespace

CholeskyStatus Gpu::cholesky(DeviceMatrixView<double> G) const {
  detail::require(G.rows() == G.cols(), "[cholesky] ", G.rows(), " x ", G.cols(),
                  ": a square matrix is needed");
  if (G.rows() == 0) return {};
  Machine& m = *machine_;
  auto const scope = enter();
  std::size_t on_device = 0, on_host = 0;
  check(cusolverDnXpotrf_bufferSize(m.solver, m.solver_params, upper, G.rows(), CUDA_R_64F, G.data(),
                                    G.stride(), CUDA_R_64F, &on_device, &on_host));
  auto device_space = m.matrix<std::byte>(1, static_cast<index_t>(on_device));
  std::vector<std::byte> host_space(on_host);
  check(cusolverDnXpotrf(m.solver, m.solver_params, upper, G.rows(), CUDA_R_64F, G.data(), G.stride(),
                         CUDA_R_64F, device_space.data(), on_device, host_space.data(), on_host,
                         m.info.data()));
  clear_upper<double>(stream(), G);
  int const info = m.read_info();
  detail::require(info >= 0, "[cholesky] cuSOLVER calls argument ", -info, " illegal: please report it");
  return {info > 0 ? index_t{info} - 1 : -1};
}

template <class T>
double Gpu::condition_estimate(DeviceMatrixView<T> L) const {
  using Value = std::remove_const_t<T>;
  index_t const rows = L.rows();
  if (rows == 0) return 1;
  int const n = as_order("condition_estimate", rows), ld = as_order("condition_estimate", L.stride());
  Machine& m = *machine_;
  auto const scope = enter();
  std::vector<Value> const start = start_vector<Value>(rows);
  auto vector = m.matrix<Value>(1, rows);
  DeviceMatrixView<Value> const x = vector;
  auto const restart = [&] {
    m.staging.upload(start.data(), vector.data(), sizeof(Value) * start.size(), stream());
  };
  restart();
  for (int round = 0; round < 3; ++round) {  // x <- L L^T x
    if (round == 2) enqueue_square_sum<Value>(x, 0);
    check(trmv(m.blas, CUBLAS_OP_N, n, L.data(), ld, vector.data()));
    if (round == 2) enqueue_square_sum<Value>(x, 1);
    else check(trmv(m.blas, CUBLAS_OP_T, n, L.data(), ld, vector.data()));
  }
  restart();
  for (int round = 0; round < 2; ++round) {  // x <- (L L^T)^-1 x
    if (round == 1) enqueue_square_sum<Value>(x, 2);
    check(trsv(m.blas, CUBLAS_OP_T, n, L.data(), ld, vector.data()));
    if (round == 1) enqueue_square_sum<Value>(x, 3);
    else check(trsv(m.blas, CUBLAS_OP_N, n, L.data(), ld, vector.data()));
  }
  auto const squares = read_scalars<4>();
  double const condition = std::sqrt(squares[1] / squares[0]) * std::sqrt(squares[3] / squares[2]);
  return std::isfinite(condition) ? std::max(1.0, condition) : std::numeric_limits<double>::infinity();
}

/// Z = Q L^T. cuSOLVER sees the buffer of Z^T as Z, leaves L in its place (the upper factor by columns is the
/// lower one by rows) and then Q^T.
template <class T>
void Gpu::householder_qr(std::type_identity_t<DeviceMatrixView<T const>> Z,
                         std::type_identity_t<DeviceMatrixView<T>> Q, DeviceMatrixView<double> L) const {
  index_t const n = Z.rows();
  detail::require(Z.cols() == n && Q.rows() == n && Q.cols() == n && L.rows() == n && L.cols() == n,
                  "[householder_qr] ", n, " x ", Z.cols(),
                  ": a square matrix and factors of its shape are needed");
  if (n == 0) return;
  int const order = as_order("householder_qr", n);
  Machine& m = *machine_;
  auto const scope = enter();
  auto packed = m.matrix<double>(n, n), tau = m.matrix<double>(1, n), signs = m.matrix<double>(1, n);
  transpose<T, double>(stream(), Z, nullptr, packed.view());

  std::size_t on_device = 0, on_host = 0;
  check(cusolverDnXgeqrf_bufferSize(m.solver, m.solver_params, n, n, CUDA_R_64F, packed.data(), n, CUDA_R_64F,
                                    tau.data(), CUDA_R_64F, &on_device, &on_host));
  auto device_space = m.matrix<std::byte>(1, static_cast<index_t>(on_device));
  std::vector<std::byte> host_space(on_host);
  check(cusolverDnXgeqrf(m.solver, m.solver_params, n, n, CUDA_R_64F, packed.data(), n, CUDA_R_64F,
                         tau.data(), CUDA_R_64F, device_space.data(), on_device, host_space.data(), on_host,
                         m.info.data()));
  int const factored = m.read_info();
  take_lower_factor(stream(), packed.view(), L, signs.data());

  int work = 0;
  check(cusolverDnDorgqr_bufferSize(m.solver, order, order, order, packed.data(), order, tau.data(), &work));
  auto work_space = m.matrix<double>(1, work);
  check(cusolverDnDorgqr(m.solver, order, order, order, packed.data(), order, tau.data(), work_space.data(),
                         work, m.info.data()));
  int const formed = m.read_info();
  if (factored != 0 || formed != 0)
    detail::fail(Error::Kind::numerics, "[householder_qr] cuSOLVER says info ", factored, " and ", formed,
                 " for a matrix of order ", n,
                 ": look for values that are not finite, else please report it");
  transpose<double, T>(stream(), packed.view(), signs.data(), Q);
}

template double Gpu::condition_estimate<float>(DeviceMatrixView<float>) const;
template double Gpu::condition_estimate<float const>(DeviceMatrixView<float const>) const;
template double Gpu::condition_estimate<double>(DeviceMatrixView<double>) const;
template double Gpu::condition_estimate<double const>(DeviceMatrixView<double const>) const;
template void Gpu::householder_qr<float>(DeviceMatrixView<float const>, DeviceMatrixView<float>,
                                         DeviceMatrixView<double>) const;
template void Gpu::householder_qr<double>(DeviceMatrixView<double const>, DeviceMatrixView<double>,
                                          DeviceMatrixView<double>) const;

}  // namespace dartquant::cuda
