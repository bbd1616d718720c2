// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/random.hpp>

#include <cmath>
#include <cstring>
#include <limits>

#include "support/catch.hpp"
#include "support/synthetic.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

/// Three loops in double.
template <class T>
double plain(MatrixView<T const> A, Op op_a, MatrixView<T const> B, Op op_b, index_t i, index_t j,
             index_t depth) {
  double sum = 0;
  for (index_t k = 0; k < depth; ++k)
    sum += static_cast<double>(op_a == Op::none ? A(i, k) : A(k, i)) *
           static_cast<double>(op_b == Op::none ? B(k, j) : B(j, k));
  return sum;
}

template <class T>
void check_against_plain(index_t rows, index_t cols, index_t depth, Op op_a, Op op_b, T alpha, T beta) {
  RowMatrix<T> const A = op_a == Op::none ? gaussian<T>(rows, depth + 3, 1) : gaussian<T>(depth, rows + 3, 1);
  RowMatrix<T> const B = op_b == Op::none ? gaussian<T>(depth, cols + 1, 2) : gaussian<T>(cols, depth + 1, 2);
  RowMatrix<T> const before = gaussian<T>(rows, cols + 2, 3);
  RowMatrix<T> C = before;
  auto const a =
      op_a == Op::none ? MatrixView<T const>(A).columns(1, depth) : MatrixView<T const>(A).columns(1, rows);
  auto const b =
      op_b == Op::none ? MatrixView<T const>(B).columns(0, cols) : MatrixView<T const>(B).columns(0, depth);
  Cpu(2).gemm(alpha, a, op_a, b, op_b, beta, MatrixView<T>(C).columns(1, cols));
  double const bound = 4 * std::numeric_limits<T>::epsilon() * static_cast<double>(depth + 2) * 4;
  for (index_t i = 0; i < rows; ++i) {
    REQUIRE(C(i, 0) == before(i, 0));  // the columns beside the view are untouched
    REQUIRE(C(i, cols + 1) == before(i, cols + 1));
    for (index_t j = 0; j < cols; j += 7) {
      double const expected =
          alpha * plain<T>(a, op_a, b, op_b, i, j, depth) + beta * static_cast<double>(before(i, j + 1));
      REQUIRE(std::abs(C(i, j + 1) - expected) <=
              bound * std::max(1.0, std::sqrt(static_cast<double>(depth))));
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a product agrees with three loops, over shapes, strides and transposes", "[gemm]", float,
                   double) {
  for (Op const op_a : {Op::none, Op::transpose})
    for (Op const op_b : {Op::none, Op::transpose}) {
      check_against_plain<TestType>(1, 1, 1, op_a, op_b, 1, 0);
      check_against_plain<TestType>(3, 5, 7, op_a, op_b, 2, 1);
      check_against_plain<TestType>(65, 33, 17, op_a, op_b, -1, TestType(0.5));
      check_against_plain<TestType>(300, 520, 9, op_a, op_b, 1, 0);   // several tiles
      check_against_plain<TestType>(24, 40, 3100, op_a, op_b, 1, 2);  // slices of the depth
    }
}

TEST_CASE("a product has the same bytes for any number of threads", "[gemm]") {
  RowMatrix<float> const tall = gaussian<float>(5000, 700, 1), narrow = gaussian<float>(5000, 90, 2);
  auto const product = [&](int threads, RowMatrix<float> const& A) {
    RowMatrix<float> C(A.cols(), narrow.cols());
    Cpu(threads).gemm(1.0f, A, Op::transpose, narrow, Op::none, 0.0f, C);
    return C;
  };
  for (RowMatrix<float> const* A : {&tall, &narrow}) {  // several tiles; slices of the depth
    RowMatrix<float> const one = product(1, *A);
    for (int const threads : {2, 3, 4}) {
      RowMatrix<float> const many = product(threads, *A);
      REQUIRE(std::memcmp(one.data(), many.data(), sizeof(float) * static_cast<std::size_t>(one.size())) ==
              0);
    }
  }
}

TEST_CASE("beta 0 does not read the target, and empty products are defined", "[gemm]") {
  RowMatrix<float> const A = gaussian<float>(4, 4, 1);
  RowMatrix<float> C = RowMatrix<float>::Constant(4, 4, std::numeric_limits<float>::quiet_NaN());
  Cpu(1).gemm(1.0f, A, Op::none, A, Op::none, 0.0f, C);
  REQUIRE(C.allFinite());
  RowMatrix<float> const thin(4, 0), wide(0, 4);
  Cpu(1).gemm(1.0f, thin, Op::none, wide, Op::none, 0.0f, C);
  REQUIRE(C.norm() == 0.0f);
  RowMatrix<float> none(0, 4);
  REQUIRE_NOTHROW(Cpu(1).gemm(1.0f, wide, Op::none, A, Op::none, 0.0f, none));
  REQUIRE_THROWS_WITH(Cpu(1).gemm(1.0f, A, Op::none, thin, Op::transpose, 0.0f, C),
                      Catch::Contains("do not fit"));
}

TEST_CASE("products on another machine: what is worth the way, and nothing of the pieces of for_each") {
  int calls = 0;
  HostProducts products;
  products.float32 = [&](float, MatrixView<float const>, Op, MatrixView<float const>, Op, float,
                         MatrixView<float> C) {
    ++calls;
    as_eigen(C).setConstant(7);
  };
  Cpu const cpu = Cpu(2).with_products(products);
  auto const product = [](Cpu const& machine, index_t n) {
    RowMatrix<float> const A = RowMatrix<float>::Ones(n, n);
    RowMatrix<float> C(n, n);
    machine.gemm<float>(1.0f, A, Op::none, A, Op::transpose, 0.0f, C);
    return C(0, 0);
  };
  CHECK(product(cpu, 149) == 149);  // 2 n^3 operations for 3 n^2 values
  CHECK(product(cpu, 151) == 7);
  CHECK(calls == 1);
  cpu.for_each(2, [&](Cpu const& piece, index_t) { CHECK(product(piece, 151) == 151); });
  RowMatrix<double> const A = RowMatrix<double>::Ones(200, 200);
  RowMatrix<double> C(200, 200);
  cpu.gemm<double>(1.0, A, Op::none, A, Op::none, 0.0, C);  // no product for double
  CHECK(C(0, 0) == 200);
  RowMatrix<float> const empty(0, 200), B = RowMatrix<float>::Ones(200, 200);
  RowMatrix<float> none(0, 200);
  cpu.gemm<float>(1.0f, empty, Op::none, B, Op::none, 0.0f, none);
  CHECK(calls == 1);
}
