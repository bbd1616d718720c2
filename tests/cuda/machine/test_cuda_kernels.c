/* SPDX-License-Identifier: Apache-2.0 */
/* The C kernel API of the GPU from plain C99: what can be wrong with arguments, without a device. */

#include <string.h>

#include <dartquant/cuda/kernels.h>

int dartquant_test_cuda_kernels(void);

static int first_failed_line;
static void check(dartquant_status status, int argument, int reason, int line) {
  if (first_failed_line != 0) return;
  if (status != 256 * argument + reason) first_failed_line = line;
}
#define CHECK(call, argument, reason) check(call, argument, reason, __LINE__)

static float x_data[4 * 96], y_data[4 * 96], scales[4 * 3];
static uint8_t levels[4 * 48];
static int32_t zero_points[4 * 3], permutation[96];
static int8_t base[12 * 12];

static dartquant_matrix matrix(void* data) {
  dartquant_matrix m;
  m.data = data;
  m.type = dartquant_float32;
  m.rows = 4;
  m.cols = m.stride = 96;
  return m;
}

static dartquant_quantized quantized(void) {
  dartquant_quantized q;
  memset(&q, 0, sizeof q);
  q.rows = 4;
  q.cols = 96;
  q.bits = 4;
  q.symmetry = dartquant_asymmetric;
  q.group = 32;
  q.levels = levels;
  q.level_stride = 48;
  q.scales = scales;
  q.scale_stride = 3;
  q.zero_points = zero_points;
  q.zero_point_stride = 3;
  return q;
}

static dartquant_transform transform(void) {
  dartquant_transform t;
  t.permutation = permutation;
  t.block = 96;
  t.base = base;
  t.base_order = 12;
  return t;
}

static void check_matrices(void) {
  dartquant_transform t = transform();
  dartquant_matrix x = matrix(x_data), y = matrix(y_data);
  CHECK(dartquant_cuda_hadamard(0, 0, 0, &x, &y), dartquant_arg_transform, dartquant_null);
  CHECK(dartquant_cuda_hadamard(0, 0, &t, 0, &y), dartquant_arg_x, dartquant_null);
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, 0), dartquant_arg_y, dartquant_null);
  x.data = 0;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_x, dartquant_null);
  x.data = (char*)x_data + 1;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_x, dartquant_misaligned);
  x = matrix(x_data);
  x.rows = 0;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_rows, dartquant_bad_size);
  x = matrix(x_data);
  x.stride = 95;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_stride, dartquant_bad_size);
  x = matrix(x_data);
  x.rows = INT64_MAX / 96;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_x, dartquant_overflow);
  x = matrix(x_data);
  y.cols = 95;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_cols, dartquant_bad_size);
  y = matrix(x_data + 96);
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_y, dartquant_bad_value);
}

static void check_transforms(void) {
  dartquant_transform t = transform();
  dartquant_norm norm = {0, dartquant_float32, -1};
  dartquant_matrix x = matrix(x_data), y = matrix(y_data);
  CHECK(dartquant_cuda_hadamard(0, &norm, &t, &x, &y), dartquant_arg_norm, dartquant_bad_value);
  norm.epsilon = 1e-5;
  norm.gain = (char*)x_data + 2;
  CHECK(dartquant_cuda_hadamard(0, &norm, &t, &x, &y), dartquant_arg_norm, dartquant_misaligned);
  t.block = -96;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_block, dartquant_bad_size);
  t.block = 64;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_block, dartquant_unsupported);
  t.block = 192;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_block, dartquant_bad_size);
  t.base = 0;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_base, dartquant_null);
  t.base = base;
  t.base_order = 0;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_base, dartquant_bad_size);
  t.base_order = 1028;
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_base, dartquant_unsupported);
  t = transform();
  t.permutation = (int32_t const*)((char const*)permutation + 1);
  CHECK(dartquant_cuda_hadamard(0, 0, &t, &x, &y), dartquant_arg_permutation, dartquant_misaligned);
}

static void check_levels(void) {
  dartquant_matrix x = matrix(x_data), y = matrix(y_data);
  dartquant_quantized q = quantized();
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1, 0), dartquant_arg_levels, dartquant_null);
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 0, &q), dartquant_arg_clip_ratio, dartquant_bad_value);
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1.5f, &q), dartquant_arg_clip_ratio, dartquant_bad_value);
  q.bits = 3;
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1, &q), dartquant_arg_bits, dartquant_unsupported);
  q = quantized();
  q.group = -1;
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1, &q), dartquant_arg_group, dartquant_bad_size);
  q = quantized();
  q.level_stride = 47;
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1, &q), dartquant_arg_levels, dartquant_bad_size);
  q = quantized();
  q.scale_stride = 2;
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1, &q), dartquant_arg_scales, dartquant_bad_size);
  q = quantized();
  q.zero_points = 0;
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1, &q), dartquant_arg_zero_points, dartquant_null);
  CHECK(dartquant_cuda_dequantize(0, &q, &y), dartquant_arg_zero_points, dartquant_null);
  q = quantized();
  q.rows = 3;
  CHECK(dartquant_cuda_quantize(0, 0, 0, &x, 1, &q), dartquant_arg_rows, dartquant_bad_size);
  CHECK(dartquant_cuda_dequantize(0, &q, &y), dartquant_arg_rows, dartquant_bad_size);
  CHECK(dartquant_cuda_dequantize(0, 0, &y), dartquant_arg_levels, dartquant_null);
}

/* 0, or the line of the first check that failed. */
int dartquant_test_cuda_kernels(void) {
  check_matrices();
  check_transforms();
  check_levels();
  return first_failed_line;
}
