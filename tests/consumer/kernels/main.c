/* SPDX-License-Identifier: Apache-2.0 */
/* An engine written in C, outside the tree: its own memory, the kernels found by find_package. Quantizes and packs
 * a weight, quantizes activations behind a Hadamard transform, multiplies in two parts, and compares with the
 * product in float. */
#include <dartquant/kernels.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { tokens = 5, in = 256, out = 40, group = 64 };

static int failed(const char* what, dartquant_status status) {
  if (status == 0) return 0;
  printf("%s: %s %s\n", what, dartquant_argument_text(dartquant_status_argument(status)),
         dartquant_reason_text(dartquant_status_reason(status)));
  return 1;
}

static void* block(size_t bytes) { return aligned_alloc(dartquant_alignment, (bytes + 63) / 64 * 64); }

static float number(unsigned* state) { /* in [-1, 1) */
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

int main(void) {
  static float x[tokens * in], w[out * in], y[tokens * out], exact[tokens * out];
  static unsigned char x_levels[tokens * in], w_levels[out * in / 2];
  static float x_scales[tokens], w_scales[out * (in / group)];
  unsigned state = 1;
  for (int i = 0; i < out * in; ++i) w[i] = number(&state);
  for (int i = 0; i < tokens * in; ++i) x[i] = number(&state) * (i % in == 17 ? 30.0f : 1.0f); /* an outlier */
  for (int t = 0; t < tokens; ++t)
    for (int o = 0; o < out; ++o) {
      double sum = 0;
      for (int j = 0; j < in; ++j) sum += (double)x[t * in + j] * (double)w[o * in + j];
      exact[t * out + o] = (float)sum;
    }

  dartquant_cpu cpu;
  if (failed("detect", dartquant_cpu_detect(&cpu))) return 1;
  const dartquant_transform hadamard = {NULL, in, NULL, 1};
  const dartquant_matrix X = {x, dartquant_float32, tokens, in, in}, W = {w, dartquant_float32, out, in, in},
                         Y = {y, dartquant_float32, tokens, out, out};
  const dartquant_quantized X8 = {tokens, in, 8, dartquant_symmetric, 0, x_levels, in, x_scales, 1, NULL, 0};
  const dartquant_quantized W4 = {out,      in, 4, dartquant_symmetric, group, w_levels, in / 2, w_scales, in / group,
                                  NULL, 0};
  const dartquant_weights shape = {out, in, group, dartquant_symmetric, 0};

  size_t row_bytes = 0, packed_bytes = 0, product_bytes = 0;
  if (failed("workspace", dartquant_rows_workspace_size(in, &row_bytes)) ||
      failed("packed size", dartquant_packed_size(&shape, &packed_bytes)) ||
      failed("workspace", dartquant_matmul_workspace_size(&shape, tokens, 8, &product_bytes)))
    return 1;
  void* const rows = block(row_bytes);
  void* const packed = block(packed_bytes);
  void* const product = block(product_bytes);
  if (rows == NULL || packed == NULL || product == NULL) return 1;

  if (failed("weights", dartquant_quantize(&cpu, &hadamard, &W, 1.0f, &W4, rows, row_bytes, 0, 1)) ||
      failed("pack", dartquant_pack(&shape, &W4, packed, packed_bytes, 0, 1)) ||
      failed("activations", dartquant_quantize(&cpu, &hadamard, &X, 1.0f, &X8, rows, row_bytes, 0, 1)))
    return 1;
  for (int part = 0; part < 2; ++part)
    if (failed("product", dartquant_matmul(&cpu, &shape, packed, packed_bytes, &X8, NULL, &Y, product, product_bytes,
                                           part, 2)))
      return 1;

  double error = 0, size = 0;
  for (int i = 0; i < tokens * out; ++i) {
    error += pow((double)y[i] - (double)exact[i], 2);
    size += pow((double)exact[i], 2);
  }
  printf("%s: relative error of W4A8 %.4f\n", dartquant_isa_name((dartquant_isa)cpu.chosen), sqrt(error / size));
  free(product);
  free(packed);
  free(rows);
  return sqrt(error / size) < 0.15 ? 0 : 1;
}
