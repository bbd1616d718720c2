// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/host_products.hpp>

#include <algorithm>
#include <memory>
#include <mutex>

#include "machine.hpp"

namespace dartquant::cuda {
namespace {

template <class T>
[[nodiscard]] DeviceMatrix<T> on_device(Gpu const& gpu, MatrixView<T const> host) {
  auto copy = gpu.matrix<T>(host.rows(), host.cols());
  gpu.copy(host, copy.view());
  return copy;
}

template <class T>
[[nodiscard]] HostProducts::Product<T> product(Gpu const& gpu, std::shared_ptr<std::mutex> const& mutex,
                                               index_t block_rows) {
  return
      [=](T alpha, MatrixView<T const> A, Op op_a, MatrixView<T const> B, Op op_b, T beta, MatrixView<T> C) {
        std::lock_guard const lock(*mutex);
        DeviceMatrix<T> const b = on_device<T>(gpu, B);
        for (index_t first = 0; first < C.rows(); first += block_rows) {
          index_t const count = std::min(block_rows, C.rows() - first);
          MatrixView<T> const target = C.rows(first, count);
          DeviceMatrix<T> const a =
              on_device<T>(gpu, op_a == Op::none ? A.rows(first, count) : A.columns(first, count));
          DeviceMatrix<T> c = beta == T(0) ? gpu.matrix<T>(count, C.cols()) : on_device<T>(gpu, target);
          gpu.gemm<T>(alpha, a, op_a, b, op_b, beta, c);
          gpu.copy(DeviceMatrixView<T const>(c), target);
        }
      };
}

}  // namespace

HostProducts host_products(Gpu const& gpu, index_t block_rows) {
  detail::require(block_rows >= 1, "[host_products] blocks of ", block_rows, " rows: at least 1 is needed");
  auto const mutex = std::make_shared<std::mutex>();
  HostProducts products{.float32 = product<float>(gpu, mutex, block_rows)};
  if (fast_float64(gpu.device())) products.float64 = product<double>(gpu, mutex, block_rows);
  return products;
}

}  // namespace dartquant::cuda
