// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/view.hpp>

#include <type_traits>
#include <vector>

#include "support/catch.hpp"

using namespace dartquant;

static_assert(!std::is_constructible_v<MatrixView<float const>, Eigen::MatrixXf&>,
              "column-major must not convert");
static_assert(!std::is_convertible_v<DeviceMatrixView<float const>, MatrixView<float const>>,
              "device views must not become host views");
static_assert(!std::is_convertible_v<RowMatrix<float>&, DeviceMatrixView<float>>,
              "host matrices must not become device views");
static_assert(!std::is_constructible_v<MatrixView<float>, RowMatrix<float> const&>,
              "a constant matrix gives no mutable view");
static_assert(!std::is_constructible_v<MatrixView<float const>, RowMatrix<double>&>,
              "element types must agree");
static_assert(std::is_trivially_copyable_v<MatrixView<float>>);

TEST_CASE("a view of an Eigen block is zero-copy", "[view]") {
  RowMatrix<float> A = RowMatrix<float>::Random(4, 6);
  MatrixView<float> const v = A.middleCols(2, 3);
  REQUIRE(v.data() == A.data() + 2);
  REQUIRE(v.stride() == 6);
  REQUIRE(v.cols() == 3);
  REQUIRE(v(3, 1) == A(3, 3));
  MatrixView<float const> const c = v;
  REQUIRE(c.rows(1, 2)(0, 0) == A(1, 2));
  REQUIRE(c.columns(1, 2)(0, 0) == A(0, 3));
  REQUIRE(c.block(2, 1, 2, 2)(1, 1) == A(3, 4));
  REQUIRE(c.row(3)[2] == A(3, 4));
}

TEST_CASE("as_eigen maps a strided view back without a copy", "[view]") {
  RowMatrix<double> A = RowMatrix<double>::Random(5, 7);
  MatrixView<double> const block = MatrixView<double>(A).block(1, 2, 3, 4);
  as_eigen(block).setZero();
  REQUIRE(A.block(1, 2, 3, 4).norm() == 0.0);
  REQUIRE(A(0, 0) != 0.0);
  std::vector<float> values{1, 2, 3};
  REQUIRE(as_eigen(VectorView<float const>(values)).sum() == 6.0f);
}
