// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every primitive of Gpu against Cpu: on the fake device (machine/) and on a GPU (device/).
#include <dartquant/cuda/gpu.hpp>
#include <dartquant/cuda/host_products.hpp>

#include <cmath>
#include <cstring>
#include <vector>

#include <dartquant/calibrate/blend.hpp>
#include <dartquant/calibrate/objective.hpp>
#include <dartquant/calibrate/optimizer.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/half.hpp>

#include "cuda/no_device.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::cuda::Gpu;
using dartquant::testing::gaussian;

namespace {

template <class T>
[[nodiscard]] cuda::DeviceMatrix<T> on_device(Gpu const& gpu, RowMatrix<T> const& host) {
  auto device = gpu.matrix<T>(host.rows(), host.cols());
  gpu.copy(MatrixView<T const>(host), device.view());
  return device;
}
template <class T>
[[nodiscard]] RowMatrix<T> on_host(Gpu const& gpu, DeviceMatrixView<T> device) {
  RowMatrix<T> host(device.rows(), device.cols());
  gpu.copy(device, MatrixView<T>(host));
  return host;
}
template <class A, class B>
[[nodiscard]] double distance(A const& a, B const& b) {
  return static_cast<double>((a - b).cwiseAbs().maxCoeff());
}

template <class Objective>
void check_objective(Gpu const& gpu, Objective const& objective, index_t rows, index_t cols) {
  RowMatrix<float> O = gaussian<float>(rows, cols, 11), slope(rows, cols);
  if (rows > 2) O.row(1).setZero();
  if (cols > 3) O(0, 3) = O(0, 1);
  double const expected = Cpu(1).objective<float>(objective, O, slope);
  auto const device = on_device(gpu, O);
  auto device_slope = gpu.matrix<float>(rows, cols);
  double const found = gpu.objective<float>(objective, device, device_slope);
  CAPTURE(rows, cols, typeid(Objective).name());
  CHECK(found == Approx(expected).epsilon(1e-5).margin(1e-6));
  CHECK(distance(on_host(gpu, device_slope.view()), slope) <= 2e-5 * (1 + slope.cwiseAbs().maxCoeff()));
}

}  // namespace

TEST_CASE("Gpu: copies convert and keep strides", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  RowMatrix<double> const wide = gaussian<double>(33, 300, 1);
  auto device = gpu.matrix<float>(33, 300);
  gpu.copy(MatrixView<double const>(wide), device.view());
  CHECK(distance(on_host(gpu, device.view()), wide.cast<float>()) == 0);
  RowMatrix<float> part(10, 7);
  gpu.copy(device.view().block(3, 5, 10, 7), MatrixView<float>(part));
  CHECK(distance(part, wide.cast<float>().block(3, 5, 10, 7)) == 0);
  auto second = gpu.matrix<double>(10, 7);
  gpu.copy(device.view().block(3, 5, 10, 7), second.view());
  CHECK(distance(on_host(gpu, second.view()), part.cast<double>()) == 0);
  std::vector<BFloat16> const stored{from_float<BFloat16>(1.5f), from_float<BFloat16>(-3.0f)};
  auto narrow = gpu.matrix<BFloat16>(1, 2);
  gpu.copy(MatrixView<BFloat16 const>(stored.data(), 1, 2), narrow.view());
  auto widened = gpu.matrix<float>(1, 2);
  gpu.copy(narrow.view(), widened.view());
  CHECK(on_host(gpu, widened.view())(0, 1) == -3.0f);
}

TEST_CASE("Gpu: products and triangular solves", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  Cpu const cpu(1);
  for (Op const op_a : {Op::none, Op::transpose})
    for (Op const op_b : {Op::none, Op::transpose}) {
      RowMatrix<float> const A = gaussian<float>(op_a == Op::none ? 5 : 9, op_a == Op::none ? 9 : 5, 2),
                             B = gaussian<float>(op_b == Op::none ? 9 : 7, op_b == Op::none ? 7 : 9, 3);
      RowMatrix<float> C = gaussian<float>(5, 7, 4);
      auto const a = on_device(gpu, A), b = on_device(gpu, B);
      auto c = on_device(gpu, C);
      cpu.gemm<float>(0.5f, A, op_a, B, op_b, 2.0f, C);
      gpu.gemm<float>(0.5f, a, op_a, b, op_b, 2.0f, c);
      CHECK(distance(on_host(gpu, c.view()), C) < 1e-5);
      auto fresh = gpu.matrix<float>(5, 7);  // of NaNs: beta 0 never reads it
      gpu.gemm<float>(1.0f, a, op_a, b, op_b, 0.0f, fresh);
      CHECK(on_host(gpu, fresh.view()).allFinite());
    }
  index_t const n = 40;
  RowMatrix<double> L = gaussian<double>(n, n, 5);
  L.triangularView<Eigen::StrictlyUpper>().setZero();
  L.diagonal().array() = L.diagonal().array().abs() + 3;
  auto const lower = on_device(gpu, L);
  RowMatrix<double> const B = gaussian<double>(13, n, 6);
  for (Op const op : {Op::none, Op::transpose}) {
    RowMatrix<double> expected = B;
    cpu.solve_lower<double>(L, op, expected);
    auto b = on_device(gpu, B);
    gpu.solve_lower<double>(lower, op, b);
    CHECK(distance(on_host(gpu, b.view()), expected) < 1e-11);
  }
  RowMatrix<double> product(13, n);
  cpu.multiply_lower<double>(B, L, product);
  auto const b = on_device(gpu, B);
  auto c = gpu.matrix<double>(13, n);
  gpu.multiply_lower<double>(b, lower, c);
  CHECK(distance(on_host(gpu, c.view()), product) < 1e-12);
}

TEST_CASE("Gpu: the solve of a lower triangle, by halves", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  for (index_t const n : {1, 60, 541}) {
    RowMatrix<double> L = gaussian<double>(n, n, 1) / std::sqrt(static_cast<double>(n)),
                      B = gaussian<double>(n, n, 2).triangularView<Eigen::Lower>();
    L.diagonal().array() += 4;
    auto const lower = on_device(gpu, RowMatrix<double>(L.triangularView<Eigen::Lower>()));
    auto b = on_device(gpu, B);
    Cpu(2).solve_lower<double>(L, Op::none, B, Fill::lower);
    gpu.solve_lower<double>(lower, Op::none, b, Fill::lower);
    CHECK(distance(on_host(gpu, b.view()), B) < 1e-12);
  }
}

TEST_CASE("Gpu: products of split factors are as exact as in FP32", "[gpu]") {
  if (test::no_device()) return;
  Gpu const plain(0, {.products = cuda::Products::float32}), split(0, {.products = cuda::Products::tf32x3}),
      rough(0, {.products = cuda::Products::tf32});
  Cpu const cpu(1);
  for (Op const op_a : {Op::none, Op::transpose})
    for (Op const op_b : {Op::none, Op::transpose}) {
      index_t const rows = 33, cols = 40, depth = 1100;  // three times 512 terms, the last fewer
      RowMatrix<float> A = gaussian<float>(op_a == Op::none ? rows : depth, op_a == Op::none ? depth : rows,
                                           2),
                       B = gaussian<float>(op_b == Op::none ? depth : cols, op_b == Op::none ? cols : depth,
                                           3);
      RowMatrix<float> const C = gaussian<float>(rows, cols, 4);
      RowMatrix<double> exact = C.cast<double>();
      cpu.gemm<double>(0.5, RowMatrix<double>(A.cast<double>()), op_a, RowMatrix<double>(B.cast<double>()),
                       op_b, 2.0, exact);
      auto const error = [&](Gpu const& gpu) {
        auto const a = on_device(gpu, A), b = on_device(gpu, B);
        auto c = on_device(gpu, C);
        gpu.gemm<float>(0.5f, a, op_a, b, op_b, 2.0f, c);
        RowMatrix<double> const found = on_host(gpu, c.view()).template cast<double>();
        return (found - exact).norm() / exact.norm();
      };
      CHECK(error(plain) < 1e-6);
      CHECK(error(split) < 2 * error(plain) + 2e-7);
      CHECK(error(rough) > 1e-5);
    }
  index_t const n = 1300;  // a lower triangle, by columns of 1,024
  RowMatrix<float> const A = gaussian<float>(5, n, 5);
  RowMatrix<float> L = gaussian<float>(n, n, 6), C(5, n);
  L.triangularView<Eigen::StrictlyUpper>().setZero();
  cpu.multiply_lower<float>(A, L, C);
  auto const a = on_device(split, A), l = on_device(split, L);
  auto c = split.matrix<float>(5, n);
  split.multiply_lower<float>(a, l, c);
  CHECK(distance(on_host(split, c.view()), C) < 2e-6 * C.norm());
  RowMatrix<float> extreme(1, 2);
  extreme << 0x1.fffffep127f, 1e-39f;  // rounding would make the first infinite
  auto const e = on_device(split, extreme),
             two = on_device(split, RowMatrix<float>(RowMatrix<float>::Ones(2, 1)));
  auto largest = split.matrix<float>(1, 1);
  split.gemm<float>(1.0f, e, Op::none, two, Op::none, 0.0f, largest);
  CHECK(on_host(split, largest.view())(0, 0) >= 0x1.ffep127f);
  auto bad = on_device(split, RowMatrix<float>(RowMatrix<float>::Constant(2, 3, INFINITY)));
  auto const ones = on_device(split, RowMatrix<float>(RowMatrix<float>::Ones(3, 2)));
  auto product = split.matrix<float>(2, 2);
  split.gemm<float>(1.0f, bad, Op::none, ones, Op::none, 0.0f, product);
  CHECK_FALSE(on_host(split, product.view()).allFinite());
}

TEST_CASE("Gpu: several products at once", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  Cpu const cpu(1);
  RowMatrix<float> const A = gaussian<float>(3 * 6, 4, 2), B = gaussian<float>(3 * 4, 5, 3);
  RowMatrix<float> C(3 * 6, 5);
  for (index_t i = 0; i < 3; ++i)
    cpu.gemm<float>(1.0f, MatrixView<float const>(A).rows(6 * i, 6), Op::none,
                    MatrixView<float const>(B).rows(4 * i, 4), Op::none, 0.0f,
                    MatrixView<float>(C).rows(6 * i, 6));
  auto const a = on_device(gpu, A), b = on_device(gpu, B);
  auto c = gpu.matrix<float>(18, 5);
  gpu.gemm_each<float>(3, 1.0f, a, Op::none, b, Op::none, 0.0f, c);
  CHECK(distance(on_host(gpu, c.view()), C) < 1e-6);
}

TEST_CASE("Gpu: Gram matrix, Cholesky factor and its condition number", "[gpu]") {
  if (test::no_device()) return;
  Cpu const cpu(1);
  for (auto const precision : {cuda::GramPrecision::automatic, cuda::GramPrecision::float32}) {
    Gpu const gpu(0, {.gram = precision});
    index_t const n = 37;
    RowMatrix<float> const Z = gaussian<float>(50, n, 7);
    RowMatrix<double> G(n, n);
    cpu.gram<float>(Z, G);
    REQUIRE(cpu.cholesky(G).ok());
    auto const z = on_device(gpu, Z);
    auto g = gpu.matrix<double>(n, n);
    gpu.gram<float>(z, g);
    REQUIRE(gpu.cholesky(g).ok());
    double const bound = precision == cuda::GramPrecision::float32 ? 1e-4 : 1e-11;
    CHECK(distance(on_host(gpu, g.view()), G) < bound);
    CHECK(gpu.condition_estimate(g.view()) ==
          Approx(cpu.condition_estimate(MatrixView<double>(G))).epsilon(0.01));
  }
  Gpu const gpu;
  RowMatrix<double> bad = RowMatrix<double>::Identity(5, 5);
  bad(3, 3) = -1;
  auto device = on_device(gpu, bad);
  CHECK(gpu.cholesky(device).failed_pivot == 3);
}

TEST_CASE("Gpu: factors of several blocks", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  Cpu const cpu(2);
  for (index_t const n : {129, 700, 1161}) {  // the last: three leaves, the last of a block and 9 rows
    RowMatrix<double> const Z =
        gaussian<double>(n, n, 3) / std::sqrt(static_cast<double>(n)) + 2 * RowMatrix<double>::Identity(n, n);
    RowMatrix<double> G(n, n), L;
    cpu.gram<double>(Z, G);
    auto g = on_device(gpu, G);
    L = G;
    REQUIRE(cpu.cholesky(L).ok());
    REQUIRE(gpu.cholesky(g).ok());
    CHECK(distance(on_host(gpu, g.view()), L) < 1e-11);
    CHECK(gpu.condition_estimate(g.view()) ==
          Approx(cpu.condition_estimate(MatrixView<double>(L))).epsilon(1e-6));
    RowMatrix<double> const B = gaussian<double>(30, n, 6);
    for (Op const op : {Op::none, Op::transpose}) {
      RowMatrix<double> expected = B;
      cpu.solve_lower<double>(L, op, expected);
      auto b = on_device(gpu, B);
      gpu.solve_lower<double>(g, op, b);
      CHECK(distance(on_host(gpu, b.view()), expected) < 1e-11);
    }
    RowMatrix<double> product(30, n);
    cpu.multiply_lower<double>(B, L, product);
    auto const b = on_device(gpu, B);
    auto c = gpu.matrix<double>(30, n);
    gpu.multiply_lower<double>(b, g, c);
    CHECK(distance(on_host(gpu, c.view()), product) < 1e-11);
    G(n - 3, n - 3) = -1;
    auto bad = on_device(gpu, G);
    CHECK(gpu.cholesky(bad).failed_pivot == n - 3);
  }
}

TEST_CASE("Gpu: a multiple of the identity", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  auto a = gpu.matrix<float>(300, 20);  // of NaNs
  gpu.set_diagonal(2.0f, a.view());
  CHECK(on_host(gpu, a.view()) == 2 * RowMatrix<float>::Identity(300, 20));
}

TEST_CASE("Gpu: Householder QR", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  for (index_t const n : {1, 2, 31, 64}) {
    RowMatrix<float> Z = gaussian<float>(n, n, 8);
    if (n == 31) Z.col(4) = Z.col(3);  // of lower rank: L differs by rounding alone
    RowMatrix<float> Q(n, n);
    RowMatrix<double> L(n, n);
    Cpu(1).householder_qr<float>(Z, Q, L);
    auto const z = on_device(gpu, Z);
    auto q = gpu.matrix<float>(n, n);
    auto l = gpu.matrix<double>(n, n);
    gpu.householder_qr<float>(z, q, l.view());
    RowMatrix<double> const found = on_host(gpu, q.view()).cast<double>(), lower = on_host(gpu, l.view());
    CHECK(distance(found.transpose() * found, RowMatrix<double>::Identity(n, n)) < 1e-6);
    CHECK(distance(found * lower.transpose(), Z.cast<double>()) < 1e-5);
    CHECK(lower.diagonal().minCoeff() >= 0);
    if (n != 31) CHECK(distance(lower, L) < 1e-11);
  }
}

TEST_CASE("Gpu: passes over rows", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  Cpu const cpu(1);
  RowMatrix<float> X = gaussian<float>(40, 300, 9);
  X.row(7).setZero();
  auto const x = on_device(gpu, X);
  std::vector<index_t> const rows{7, 39, 0, 0, 12};
  RowMatrix<float> Y(5, 300);
  cpu.gather_rows<float>(X, rows, Y);
  auto y = gpu.matrix<float>(5, 300);
  gpu.gather_rows<float>(x, rows, y);
  CHECK(distance(on_host(gpu, y.view()), Y) == 0);
  cpu.normalize_rows<float>(Y);
  gpu.normalize_rows<float>(y);
  CHECK(distance(on_host(gpu, y.view()), Y) < 1e-6);
  CHECK(gpu.frobenius_norm<float>(x) == Approx(cpu.frobenius_norm<float>(X)).epsilon(1e-12));
  for (index_t const n : {1, 5, 32, 33, 70}) {
    RowMatrix<float> A = gaussian<float>(n, n, 10);
    auto a = on_device(gpu, A);
    cpu.skew_lower<float>(A);
    gpu.skew_lower<float>(a);
    CHECK(distance(on_host(gpu, a.view()), A) == 0);
  }
}

TEST_CASE("Gpu: optimizer rules", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  RowMatrix<float> const G = gaussian<float>(20, 270, 1);
  RowMatrix<float> m = gaussian<float>(20, 270, 2), v = m.cwiseAbs(), z = gaussian<float>(20, 270, 3);
  auto const g = on_device(gpu, G);
  auto dm = on_device(gpu, m), dv = on_device(gpu, v), dz = on_device(gpu, z);
  Cpu(1).update<float>(Sgd{}, 0.1f, G, m, {}, z);
  Cpu(1).update<float>(Adam{}, 0.1f, G, m, v, z);
  gpu.update<float>(Sgd{}, 0.1f, g, dm, {}, dz);
  gpu.update<float>(Adam{}, 0.1f, g, dm, dv, dz);
  CHECK(distance(on_host(gpu, dz.view()), z) < 1e-6);
  CHECK(distance(on_host(gpu, dv.view()), v) < 1e-6);
}

TEST_CASE("Gpu: objectives and their slopes", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {3, 40}, {19, 300}}) {
    check_objective(gpu, Whip{}, rows, cols);
    check_objective(gpu, Variance{}, rows, cols);
    check_objective(gpu, Kurtosis{}, rows, cols);
    check_objective(gpu, Peak{}, rows, cols);
    check_objective(gpu, QuantError{}, rows, cols);
    check_objective(gpu, Uniformity{}, rows, cols);
  }
}

TEST_CASE("Gpu: products of matrices of the host, block of rows by block of rows", "[gpu]") {
  if (test::no_device()) return;
  Gpu const gpu;
  HostProducts products = cuda::host_products(gpu, 7);
  products.least_intensity = 0;
  Cpu const cpu(2), equipped = cpu.with_products(products);
  auto const check = [&]<class T>(T alpha, Op op_a, Op op_b, T beta, double bound) {
    RowMatrix<T> const A = op_a == Op::none ? gaussian<T>(30, 12, 1) : gaussian<T>(12, 30, 1),
                       B = op_b == Op::none ? gaussian<T>(12, 9, 2) : gaussian<T>(9, 12, 2);
    RowMatrix<T> wide = gaussian<T>(30, 14, 3), expected = wide.middleCols(2, 9);
    cpu.gemm<T>(alpha, A, op_a, B, op_b, beta, expected);
    RowMatrix<T> const before = wide;
    equipped.gemm<T>(alpha, A, op_a, B, op_b, beta, MatrixView<T>(wide).columns(2, 9));
    CHECK(distance(wide.middleCols(2, 9), expected) < bound);
    CHECK(distance(wide.leftCols(2), before.leftCols(2)) == 0);
  };
  for (Op const op_a : {Op::none, Op::transpose})
    for (Op const op_b : {Op::none, Op::transpose}) {
      check(1.0f, op_a, op_b, 0.0f, 2e-5);
      check(-2.0f, op_a, op_b, 0.5f, 4e-5);
      check(1.5, op_a, op_b, 1.0, 1e-13);
    }
}
