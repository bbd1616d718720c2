// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/cpu.hpp>

#include <cmath>
#include <limits>

#include "support/synthetic.hpp"
#include "support/catch.hpp"

using namespace dartquant;
using dartquant::testing::gaussian;

namespace {

RowMatrix<double> lower_part(RowMatrix<double> const& M) {
  return M.triangularView<Eigen::Lower>().toDenseMatrix();
}
RowMatrix<double> positive_definite(index_t n, std::uint64_t seed) {
  RowMatrix<double> const Z = gaussian(n, n, seed);
  return Z.transpose() * Z / static_cast<double>(n) + 0.1 * RowMatrix<double>::Identity(n, n);
}

}  // namespace

TEST_CASE("gram is Z^T Z in FP64", "[cpu][factorization]") {
  for (index_t const n : {1, 5, 256, 257, 300}) {
    RowMatrix<float> const Z = gaussian<float>(77, n, 1);
    RowMatrix<double> one(n, n), four(n, n);
    Cpu(1).gram<float>(Z, one);
    Cpu(4).gram<float>(Z, four);
    RowMatrix<double> const wide = Z.cast<double>(), exact = wide.transpose() * wide;
    CHECK((lower_part(one) - lower_part(exact)).cwiseAbs().maxCoeff() < 1e-11);
    CHECK(lower_part(one) == lower_part(four));
  }
}

TEST_CASE("cholesky factors, and names the pivot that fails", "[cpu][factorization]") {
  for (index_t const n : {1, 2, 64, 127, 128, 129, 400}) {
    RowMatrix<double> const G = positive_definite(n, 2);
    RowMatrix<double> L = G, four = G;
    L.triangularView<Eigen::StrictlyUpper>().setConstant(
        std::numeric_limits<double>::quiet_NaN());  // never read
    REQUIRE(Cpu(1).cholesky(L).ok());
    REQUIRE(Cpu(4).cholesky(four).ok());
    CHECK((L * L.transpose() - G).cwiseAbs().maxCoeff() < 1e-12);
    CHECK(L == lower_part(L));
    CHECK(L == four);
  }
  for (index_t const pivot : {0, 3, 130, 299}) {
    RowMatrix<double> G = RowMatrix<double>::Identity(300, 300);
    G(pivot, pivot) = pivot == 3 ? std::numeric_limits<double>::quiet_NaN() : -1;
    CHECK(Cpu(2).cholesky(G).failed_pivot == pivot);
  }
}

TEMPLATE_TEST_CASE("triangular solves and products", "[cpu][factorization]", float, double) {
  using T = TestType;
  T const eps = std::numeric_limits<T>::epsilon();
  for (index_t const n : {1, 3, 63, 64, 65, 200, 321}) {
    RowMatrix<double> wide = positive_definite(n, 3);
    REQUIRE(Cpu(1).cholesky(wide).ok());
    RowMatrix<T> const L = wide.cast<T>(), B = gaussian<T>(70, n, 4);
    T const tolerance = T(500) * eps * B.cwiseAbs().maxCoeff();
    RowMatrix<T> X = B, four = B;
    Cpu(1).solve_lower<T>(L, Op::transpose, X);
    Cpu(4).solve_lower<T>(L, Op::transpose, four);
    CHECK((X * L.transpose() - B).cwiseAbs().maxCoeff() < tolerance);
    CHECK(X == four);
    X = B;
    Cpu(2).solve_lower<T>(L, Op::none, X);
    CHECK((X * L - B).cwiseAbs().maxCoeff() < tolerance);

    RowMatrix<T> S = gaussian<T>(n, n, 5), product(n, n), full = S;
    Cpu(2).skew_lower<T>(S);
    CHECK(S == RowMatrix<T>((full - full.transpose()).template triangularView<Eigen::StrictlyLower>()));
    RowMatrix<T> M = S;
    Cpu(2).solve_lower<T>(L, Op::none, M, Fill::lower);
    CHECK((M * L - S).cwiseAbs().maxCoeff() < 4 * tolerance);
    CHECK(M == RowMatrix<T>(M.template triangularView<Eigen::StrictlyLower>()));
    Cpu(2).multiply_lower<T>(full, M, product);
    CHECK((product - full * M).cwiseAbs().maxCoeff() <= T(500) * eps * M.cwiseAbs().maxCoeff() * T(10));
  }
}

TEST_CASE("the condition estimate finds the order of magnitude", "[cpu][factorization]") {
  Cpu const cpu(1);
  RowMatrix<double> L = RowMatrix<double>::Identity(50, 50);
  CHECK(cpu.condition_estimate(MatrixView<double>(L)) == Approx(1));
  L(20, 20) = 1e-4;
  CHECK(cpu.condition_estimate(MatrixView<double>(L)) == Approx(1e4).epsilon(0.01));
  L(20, 20) = 0;
  CHECK(std::isinf(cpu.condition_estimate(MatrixView<double>(L))));
}

TEST_CASE("factorizations refuse shapes that do not fit", "[cpu][factorization]") {
  Cpu const cpu(1);
  RowMatrix<double> A(3, 4), B(3, 3);
  CHECK_THROWS_WITH(cpu.cholesky(A), "[cholesky] 3 x 4: a square matrix is needed");
  CHECK_THROWS_WITH(cpu.gram<double>(A, B),
                    "[gram] 3 x 3 for the Gram matrix of 4 columns: the shapes do not fit");
  CHECK_THROWS_WITH(cpu.solve_lower<double>(B, Op::none, A),
                    "[solve_lower] 3 x 4 by the inverse of 3 x 3: the shapes do not fit");
  CHECK_THROWS_WITH(cpu.skew_lower<double>(A), "[skew_lower] 3 x 4: a square matrix is needed");
  CHECK_THROWS_AS(cpu.householder_qr<double>(A, B, B), InvalidArgument);
  CHECK_THROWS_AS(cpu.multiply_lower<double>(A, B, A), InvalidArgument);
}
