// SPDX-License-Identifier: Apache-2.0
// Products of float and double matrices by the compiled kernels, against three loops in long double.
#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/core/cpu.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/exact.hpp"
#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;
using kernel_test::Exact;

namespace {

std::vector<CpuKernels> all_kernels() {
  (void)dartquant_amx_request();
  std::vector<CpuKernels> all;
  for (dartquant_isa const isa : available_isas()) all.push_back(compiled_kernels(isa));
  return all;
}

template <class T>
struct Factor {
  MatrixView<T const> values;
  Op op;
  [[nodiscard]] T at(index_t i, index_t j) const { return op == Op::none ? values(i, j) : values(j, i); }
};

/// op(factor) [rows, cols] inside a wider matrix.
template <class T>
RowMatrix<T> stored(Op op, index_t rows, index_t cols, std::uint64_t seed) {
  return op == Op::none ? gaussian<T>(rows, cols + 3, seed) : gaussian<T>(cols, rows + 3, seed);
}
template <class T>
Factor<T> inside(RowMatrix<T> const& M, Op op) {
  return {MatrixView<T const>(M).columns(1, M.cols() - 3), op};
}

/// |C - exact| <= (depth + 4) eps (|alpha| |A| |B| + |beta C|): a rounding per product, two at the ends of a
/// slice of 256, three for alpha and beta, each of eps / 2.
template <class T>
void check_close(Factor<T> const& A, Factor<T> const& B, T alpha, T beta, index_t depth,
                 MatrixView<T const> before, MatrixView<T const> C) {
  for (index_t i = 0; i < C.rows(); ++i)
    for (index_t j = 0; j < C.cols(); ++j) {
      long double sum = 0, size = 0;
      for (index_t k = 0; k < depth; ++k) {
        long double const term = static_cast<long double>(A.at(i, k)) * static_cast<long double>(B.at(k, j));
        sum += term;
        size += std::abs(term);
      }
      long double const old = beta == 0 ? 0.0L : static_cast<long double>(beta) * before(i, j);
      long double const exact = static_cast<long double>(alpha) * sum + old;
      long double const bound = static_cast<long double>(depth + 4) * std::numeric_limits<T>::epsilon() *
                                (std::abs(static_cast<long double>(alpha)) * size + std::abs(old));
      if (!(std::abs(C(i, j) - exact) <= bound)) FAIL("at " << i << ", " << j << ": " << C(i, j));
    }
}

template <class T>
TileKernel<T> const& kernel_of(TileKernels const& tiles) {
  if constexpr (std::is_same_v<T, float>) return tiles.float32;
  else return tiles.float64;
}

template <class T>
bool same_bytes(RowMatrix<T> const& A, RowMatrix<T> const& B) {
  return A.rows() == B.rows() && A.cols() == B.cols() &&
         (A.size() == 0 ||
          std::memcmp(A.data(), B.data(), static_cast<std::size_t>(A.size()) * sizeof(T)) == 0);
}

constexpr Op both[] = {Op::none, Op::transpose};

}  // namespace

TEMPLATE_TEST_CASE("a tile agrees with three loops, whatever is left over", "[tiles]", float, double) {
  using T = TestType;
  struct Scale {
    T alpha, beta;
  };
  constexpr Scale scales[] = {{1, 0}, {1, 1}, {-1, 1}, {T(0.75), T(-1.5)}, {0, T(0.5)}, {-1, 0}};
  std::size_t turn = 0;
  for (index_t const rows : {1, 2, 6, 7, 13, 14, 15, 30})
    for (index_t const cols : {1, 4, 7, 8, 9, 16, 17, 31, 32, 33, 70})
      for (index_t const depth : {0, 1, 3, 8, 13, 37})
        for (Op const op_a : both)
          for (Op const op_b : both) {
            auto const [alpha, beta] = scales[turn++ % std::size(scales)];
            RowMatrix<T> const a = stored<T>(op_a, rows, depth, 1), b = stored<T>(op_b, depth, cols, 2),
                               before = gaussian<T>(rows, cols + 2, 3);
            RowMatrix<T> first;
            for (CpuKernels const& kernels : all_kernels()) {
              if (kernels.tiles == nullptr) continue;
              INFO(kernels.name() << ", " << rows << " x " << depth << " x " << cols);
              RowMatrix<T> C = before;
              detail::kernel_tile<T>(kernel_of<T>(*kernels.tiles), alpha, inside(a, op_a).values, op_a,
                                     inside(b, op_b).values, op_b, beta, MatrixView<T>(C).columns(1, cols));
              check_close<T>(inside(a, op_a), inside(b, op_b), alpha, beta, depth,
                             MatrixView<T const>(before).columns(1, cols),
                             MatrixView<T const>(C).columns(1, cols));
              REQUIRE((C.col(0) == before.col(0) && C.col(cols + 1) == before.col(cols + 1)));
              if (first.size() == 0) first = C;
              REQUIRE(same_bytes(C, first));  // as every other instruction set
            }
          }
}

TEMPLATE_TEST_CASE("a tile keeps to its buffers", "[tiles]", float, double) {
  using T = TestType;
  auto const values = [](index_t count) {
    Exact memory(static_cast<std::size_t>(count) * sizeof(T), sizeof(T));
    auto* const data = reinterpret_cast<T*>(memory.data());
    for (index_t i = 0; i < count; ++i) data[i] = static_cast<T>(i % 7 - 3);
    return memory;
  };
  for (CpuKernels const& kernels : all_kernels()) {
    if (kernels.tiles == nullptr) continue;
    TileKernel<T> const& kernel = kernel_of<T>(*kernels.tiles);
    for (index_t const rows : {1, 3, 14, 17, 50})
      for (index_t const cols : {1, 5, 16, 35})
        for (index_t const depth : {1, 9, 300})
          for (bool const plain : {true, false}) {
            Exact a = values(rows * depth), b = values(depth * cols), c = values(rows * cols);
            Exact scratch(kernel.scratch_bytes(rows, depth));
            TileProduct<T> const product{.rows = rows,
                                         .cols = cols,
                                         .depth = depth,
                                         .alpha = 1,
                                         .a = reinterpret_cast<T const*>(a.data()),
                                         .a_row = plain ? depth : 1,
                                         .a_depth = plain ? 1 : rows,
                                         .b = reinterpret_cast<T const*>(b.data()),
                                         .b_depth = plain ? cols : 1,
                                         .b_col = plain ? 1 : depth,
                                         .beta = 1,
                                         .c = reinterpret_cast<T*>(c.data()),
                                         .c_row = cols,
                                         .scratch = reinterpret_cast<std::byte*>(scratch.data())};
            kernel.multiply(&product);
            double sum = 0;
            for (index_t k = 0; k < depth; ++k)
              sum += static_cast<double>(product.a[k * product.a_depth] * product.b[k * product.b_depth]);
            REQUIRE(static_cast<double>(product.c[0]) == sum - 3);  // whole numbers are exact
          }
  }
}

TEMPLATE_TEST_CASE("products on kernels agree with three loops over tiles and slices", "[tiles]", float,
                   double) {
  using T = TestType;
  struct Shape {
    index_t rows, cols, depth;
  };
  for (Shape const s : {Shape{2, 16, 64},
                        {9, 5, 3100},
                        {40, 30, 2500},
                        {1, 300, 40},
                        {300, 1, 40},
                        {270, 530, 20},
                        {257, 40, 530}})
    for (Op const op_a : both)
      for (Op const op_b : both) {
        RowMatrix<T> const a = stored<T>(op_a, s.rows, s.depth, 1), b = stored<T>(op_b, s.depth, s.cols, 2),
                           before = gaussian<T>(s.rows, s.cols, 3);
        for (CpuKernels const& kernels : all_kernels()) {
          INFO(kernels.name() << ", " << s.rows << " x " << s.depth << " x " << s.cols);
          RowMatrix<T> one;
          for (int const threads : {1, 2, 3}) {
            RowMatrix<T> C = before;
            Cpu(threads).with_kernels(kernels).template gemm<T>(T(-0.5), inside(a, op_a).values, op_a,
                                                                inside(b, op_b).values, op_b, T(1), C);
            if (threads == 1) one = C;
            REQUIRE(same_bytes(C, one));
          }
          check_close<T>(inside(a, op_a), inside(b, op_b), T(-0.5), T(1), s.depth, before, one);
        }
      }
}

TEMPLATE_TEST_CASE("beta 0 does not read the target, zero sizes work, and values that are not finite spread",
                   "[tiles]", float, double) {
  using T = TestType;
  T const nan = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
  RowMatrix<T> const A = gaussian<T>(20, 40, 1), B = gaussian<T>(40, 50, 2);
  for (CpuKernels const& kernels : all_kernels()) {
    INFO(kernels.name());
    Cpu const cpu = Cpu(1).with_kernels(kernels), plain(1);
    RowMatrix<T> C = RowMatrix<T>::Constant(20, 50, nan);
    cpu.gemm<T>(1, A, Op::none, B, Op::none, 0, C);
    REQUIRE(C.allFinite());
    RowMatrix<T> const thin(20, 0), wide(0, 50);
    cpu.gemm<T>(1, thin, Op::none, wide, Op::none, T(2), C);
    cpu.gemm<T>(1, thin, Op::none, wide, Op::none, 0, C);
    REQUIRE(C.norm() == 0);
    RowMatrix<T> none(0, 50), narrow(20, 0);
    REQUIRE_NOTHROW(cpu.gemm<T>(1, RowMatrix<T>(0, 40), Op::none, B, Op::none, 0, none));
    REQUIRE_NOTHROW(cpu.gemm<T>(1, A, Op::none, RowMatrix<T>(40, 0), Op::none, 0, narrow));
    for (T const alpha : {T(1), T(0)}) {
      RowMatrix<T> bad = A, D(20, 50);
      bad(3, 7) = nan;
      bad(9, 11) = infinity;
      bad(19, 39) = -infinity;
      cpu.gemm<T>(alpha, bad, Op::none, B, Op::none, 0, C);
      plain.gemm<T>(alpha, bad, Op::none, B, Op::none, 0, D);
      for (index_t i = 0; i < 20; ++i)
        for (index_t j = 0; j < 50; ++j) {
          REQUIRE(std::isnan(C(i, j)) == std::isnan(D(i, j)));
          if (std::isinf(D(i, j))) REQUIRE(C(i, j) == D(i, j));
          else if (!std::isnan(D(i, j))) REQUIRE(std::isfinite(C(i, j)));
        }
    }
  }
}

TEST_CASE("factors and their products run on the kernels", "[tiles]") {
  index_t const n = 330;
  RowMatrix<double> const Z = gaussian<double>(n + 20, n, 1);
  for (CpuKernels const& kernels : all_kernels()) {
    INFO(kernels.name());
    std::vector<RowMatrix<double>> first;
    for (int const threads : {1, 3}) {
      Cpu const cpu = Cpu(threads).with_kernels(kernels);
      RowMatrix<double> G = RowMatrix<double>::Zero(n, n);
      cpu.gram<double>(Z, G);
      RowMatrix<double> L = G, X = Z, Y(Z.rows(), n);
      REQUIRE(cpu.cholesky(L).ok());
      cpu.solve_lower<double>(L, Op::transpose, X);
      L.triangularView<Eigen::StrictlyUpper>().setZero();
      cpu.multiply_lower<double>(X, L, Y);
      RowMatrix<double> const I = RowMatrix<double>::Identity(n, n);
      CHECK((X.transpose() * X - I).norm() < 1e-9);  // condition squared times eps
      CHECK((Y - X * L).norm() < 1e-12 * Y.norm());
      CHECK((RowMatrix<double>(G.triangularView<Eigen::Lower>()) -
             RowMatrix<double>((Z.transpose() * Z).triangularView<Eigen::Lower>()))
                .norm() < 1e-12 * G.norm());
      std::vector<RowMatrix<double>> const found{L, X, Y};
      if (first.empty()) first = found;
      for (std::size_t i = 0; i < found.size(); ++i) REQUIRE(same_bytes(found[i], first[i]));
    }
  }
}
