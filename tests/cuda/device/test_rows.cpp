// SPDX-License-Identifier: Apache-2.0
// The calls on rows on a GPU have the bytes of the CPU's.

#include "cuda/device_rows.hpp"
#include "cuda/no_device.hpp"

using namespace rows_test;

namespace {

void check(Random& random, CallCase const& c) {
  CAPTURE(c.rows, c.cols, c.block, c.group, c.bits, int(c.symmetry), c.permuted, int(c.type));
  CallData const data(random, c);
  data.run();
  data.compare();
}

}  // namespace

TEST_CASE("Rows on a GPU have the CPU's bytes: every length", "[device][rows]") {
  if (test::no_device()) return;
  Random random(1);
  for (int m = 0; m <= 14; ++m) {
    std::int64_t const block = std::int64_t{1} << m;
    for (auto const type : {dartquant_float32, dartquant_float16, dartquant_bfloat16}) {
      check(random, {37, block, block, 0, 4, dartquant_symmetric, false, type});
      check(random,
            {5, 3 * block <= 32768 ? 3 * block : block, block, 32, 4, dartquant_asymmetric, m < 13, type});
    }
  }
}

TEST_CASE("Rows on a GPU have the CPU's bytes: widths of models", "[device][rows][large]") {
  if (test::no_device()) return;
  Random random(2);
  for (std::int64_t const cols : {2048, 3072, 4096, 5120, 8192, 11008, 13824, 14336})
    for (std::int64_t const group : {0, 32, 128})
      for (std::int32_t const bits : {4, 8}) {
        check(random, {33, cols, cols, group, bits, dartquant_symmetric, false});
        check(random, {3, cols, 128, group, bits, dartquant_asymmetric, true, dartquant_float16});
      }
  for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric})
    for (std::int64_t const head : {64, 128, 256})  // KV caches
      check(random, {300, 8 * head, head, head, 4, symmetry, false});
}

TEST_CASE("Rows on a GPU have the CPU's bytes: strips", "[device][rows]") {
  if (test::no_device()) return;
  Random random(5);
  for (auto const type : {dartquant_float32, dartquant_float16, dartquant_bfloat16})
    for (std::int64_t const group : {0, 128})
      for (std::int32_t const bits : {4, 8})
        for (auto const symmetry : {dartquant_symmetric, dartquant_asymmetric}) {
          float const clip = bits == 8 ? 0.9f : 1.0f;
          for (int m = 7; m <= 15; ++m) {
            std::int64_t const block = std::int64_t{1} << m;
            check(random,
                  {m >= 14 ? 3 : 33, block, block, group, bits, symmetry, false, type, clip, type, type});
          }
          for (std::int64_t const cols : {384, 4096, 5120, 14336}) {
            check(random, {7, cols, 0, group, bits, symmetry, false, type, clip, type, type});
            check(random, {7, cols, 128, group, bits, symmetry, false, type, clip, type, type});
            check(random, {3, cols, 64, group, bits, symmetry, false, type, clip, type, type});
          }
        }
  check(random, {3000, 4096, 4096, 0, 4, dartquant_symmetric, false, dartquant_bfloat16, 1,
                 dartquant_bfloat16, dartquant_bfloat16});
  check(random, {3000, 4096, 4096, 128, 4, dartquant_symmetric, false, dartquant_bfloat16, 1,
                 dartquant_bfloat16, dartquant_bfloat16});
}

TEST_CASE("Rows on a GPU have the CPU's bytes: any shape", "[device][rows]") {
  if (test::no_device()) return;
  Random random(3);
  for (CallCase const& c :
       {CallCase{1, 1, 1, 0}, CallCase{3, 33, 0, 8}, CallCase{3, 100, 4, 7}, CallCase{2, 40, 20, 3},
        CallCase{2, 344, 172, 100}, CallCase{3, 12, 12, 5}, CallCase{4, 96, 32, 24}}) {
    check(random, c);
    CallCase other = c;
    other.bits = 8;
    other.symmetry = dartquant_symmetric;
    check(random, other);
  }
}

TEST_CASE("Block rotations on a GPU: defined to the bit", "[device][rows]") {
  if (test::no_device()) return;
  Random random(4);
  std::int64_t const rows = 130, cols = 512, block = 128;
  Values x(dartquant_float32, rows, cols), expected(dartquant_float32, rows, cols);
  fill(random, x.m);
  Transform const order(random, cols, 0, true);
  std::vector<float> R(static_cast<std::size_t>(cols / block * block * block));
  std::normal_distribution<float> normal;
  for (float& r : R) r = normal(random);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      float sum = 0;
      for (std::int64_t k = 0; k < block; ++k)
        sum = std::fmaf(get(x.m, i, order.permutation[static_cast<std::size_t>(j / block * block + k)]),
                        R[static_cast<std::size_t>((j / block * block + k) * block + j % block)], sum);
      set(expected.m, i, j, sum);
    }
  OnDevice const x_device = copy_of(x.memory), y_device = copy_of(x.memory),
                 rotations(R.data(), 4 * R.size()),
                 permutation(order.permutation.data(), 4 * order.permutation.size());
  cuda::rotate_blocks(nullptr, {permutation.as<std::int32_t>(), rotations.as<float>(), block, cols / block},
                      DeviceMatrixView<float>(x_device.as<float>(), rows, cols),
                      DeviceMatrixView<float>(y_device.as<float>(), rows, cols));
  CHECK(y_device.holds(expected.memory));
}
