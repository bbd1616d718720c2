// SPDX-License-Identifier: Apache-2.0
// The block rotation's body, run on the CPU: the sums that its description defines, and DuQuant's chain.

#include <dartquant/cuda/block_rotation.cuh>

#include "cuda/rows_case.hpp"

using namespace rows_test;

namespace {

void check(Random& random, int rows, int cols, int block, bool permuted, bool each, dartquant_type from,
           dartquant_type to, std::int64_t extra) {
  CAPTURE(rows, cols, block, permuted, each, int(from), int(to), extra);
  Values x(from, rows, cols, extra), y(to, rows, cols, extra), expected(to, rows, cols, extra);
  fill(random, x.m);
  Transform const order(random, cols, 0, permuted);
  std::vector<float> R(static_cast<std::size_t>((each ? cols / block : 1) * block * block));
  std::normal_distribution<float> normal;
  for (float& r : R) r = normal(random);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j) {
      int const first = j / block * block;
      float const* const matrix = R.data() + (each ? j / block * block * block : 0);
      float sum = 0;
      for (int k = 0; k < block; ++k) {
        int const source = permuted ? order.permutation[static_cast<std::size_t>(first + k)] : first + k;
        sum = std::fmaf(get(x.m, i, source), matrix[k * block + (j - first)], sum);
      }
      set(expected.m, i, j, sum);
    }
  auto const body = cuda::rotate_blocks({order.c.permutation, R.data(), block, each ? cols / block : 1},
                                        rows_of(x.m), rows_of(y.m));
  test::run_on_host(cuda::grid_of(body), body, static_cast<ThreadOrder>(random() % 3));
  CHECK(y.memory == expected.memory);
}

}  // namespace

TEST_CASE("Block rotations: defined to the bit", "[rows][block_rotation]") {
  Random random(1);
  check(random, 70, 256, 128, false, true, dartquant_bfloat16, dartquant_bfloat16, 0);
  check(random, 3, 256, 64, true, true, dartquant_float16, dartquant_float32, 8);
  check(random, 1, 33, 11, true, false, dartquant_float32, dartquant_float16, 3);
  check(random, 65, 7, 7, false, false, dartquant_float32, dartquant_float32, 0);
  check(random, 2, 300, 100, true, true, dartquant_bfloat16, dartquant_bfloat16, 1);
  check(random, 5, 4, 1, true, true, dartquant_float32, dartquant_float32, 0);
}
