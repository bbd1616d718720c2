// SPDX-License-Identifier: Apache-2.0
// Householder QR on cuSOLVER, always in FP64. A column-major library sees the transposes of our matrices.
#include <limits>
#include <vector>

#include <dartquant/cuda/gpu.hpp>

#include "machine.hpp"
#include "passes.hpp"

namespace dartquant::cuda {
namespace {

[[nodiscard]] int as_order(char const* who, index_t n) {
  detail::require(n <= std::numeric_limits<int>::max(), "[", who, "] order ", n, ": at most ",
                  std::numeric_limits<int>::max(), " is possible");
  return static_cast<int>(n);
}

}  // namespace

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

template void Gpu::householder_qr<float>(DeviceMatrixView<float const>, DeviceMatrixView<float>,
                                         DeviceMatrixView<double>) const;
template void Gpu::householder_qr<double>(DeviceMatrixView<double const>, DeviceMatrixView<double>,
                                          DeviceMatrixView<double>) const;

}  // namespace dartquant::cuda
