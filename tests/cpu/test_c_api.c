/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel API from plain C99: one layer in W4A8 on static arrays, for every instruction set there is. */

#include <math.h>
#include <string.h>

#include <dartquant/kernels.h>

enum { tokens = 5, channels = 96, outputs = 37, group = 32, groups = channels / group };

int dartquant_test_c_api(int* first_line);

static float x[tokens][channels], w[outputs][channels], bias[outputs];
static float y[tokens][outputs], reference[tokens][outputs], rotated[tokens][channels],
    restored[outputs][channels];
static int8_t x_levels[tokens][channels];
static float x_scales[tokens];
static int32_t x_zero_points[tokens];
static uint8_t w_levels[outputs][channels / 2], unpacked_levels[outputs][channels / 2];
static float w_scales[outputs][groups], unpacked_scales[outputs][groups];
static dartquant_block_q4_0 blocks[outputs][groups];
static uint8_t packed_memory[16384 + dartquant_alignment], workspace_memory[(1 << 20) + dartquant_alignment];

static int failures, first_failed_line;

static void check(int condition, int line) {
  if (condition) return;
  if (failures++ == 0) first_failed_line = line;
}
#define CHECK(condition) check((condition) != 0, __LINE__)

static void* aligned(uint8_t* memory) {
  return memory + (dartquant_alignment - (uintptr_t)memory % dartquant_alignment) % dartquant_alignment;
}

static dartquant_matrix matrix(void* data, int64_t rows, int64_t cols) {
  dartquant_matrix m;
  m.data = data;
  m.type = dartquant_float32;
  m.rows = rows;
  m.cols = m.stride = cols;
  return m;
}

static dartquant_quantized weights_in(void* levels, float* scales) {
  dartquant_quantized q;
  memset(&q, 0, sizeof q);
  q.rows = outputs;
  q.cols = channels;
  q.bits = 4;
  q.symmetry = dartquant_symmetric;
  q.group = group;
  q.levels = levels;
  q.level_stride = channels / 2;
  q.scales = scales;
  q.scale_stride = groups;
  return q;
}

static dartquant_quantized activations(void) {
  dartquant_quantized q;
  q.rows = tokens;
  q.cols = channels;
  q.bits = 8;
  q.symmetry = dartquant_asymmetric;
  q.group = 0;
  q.levels = x_levels;
  q.level_stride = channels;
  q.scales = x_scales;
  q.scale_stride = 1;
  q.zero_points = x_zero_points;
  q.zero_point_stride = 1;
  return q;
}

static void fill(void) {
  int i, j;
  for (i = 0; i < tokens; ++i)
    for (j = 0; j < channels; ++j) x[i][j] = (float)((37 * i + 101 * j + i * j) % 257 - 100) / 64.0f;
  for (i = 0; i < outputs; ++i) {
    bias[i] = (float)i / 8.0f;
    for (j = 0; j < channels; ++j) w[i][j] = (float)((29 * i + 53 * j + 3 * i * j) % 127 - 63) / 128.0f;
  }
}

/* The formula of dartquant_matmul in double, with the dequantized weights. */
static void multiply(void) {
  int t, o, j;
  for (t = 0; t < tokens; ++t)
    for (o = 0; o < outputs; ++o) {
      double sum = (double)bias[o];
      for (j = 0; j < channels; ++j) {
        int const level = (int)(uint8_t)x_levels[t][j] - x_zero_points[t];
        sum += (double)x_scales[t] * level * (double)restored[o][j];
      }
      reference[t][o] = (float)sum;
    }
}

static void run(dartquant_cpu const* cpu) {
  dartquant_matrix const xm = matrix(x, tokens, channels), wm = matrix(w, outputs, channels);
  dartquant_matrix const ym = matrix(y, tokens, outputs), rm = matrix(restored, outputs, channels);
  dartquant_matrix const hm = matrix(rotated, tokens, channels);
  dartquant_quantized const q = weights_in(w_levels, &w_scales[0][0]);
  dartquant_quantized const back = weights_in(unpacked_levels, &unpacked_scales[0][0]);
  dartquant_quantized const a = activations();
  dartquant_transform hadamard;
  dartquant_weights shape;
  void *const packed = aligned(packed_memory), *const space = aligned(workspace_memory);
  size_t packed_bytes = 0, bytes = 0;
  int64_t part;
  int t, o;
  memset(&hadamard, 0, sizeof hadamard);
  hadamard.block = group;
  shape.out = outputs;
  shape.in = channels;
  shape.group = group;
  shape.symmetry = dartquant_symmetric;
  shape.with_sums = 1;

  CHECK(dartquant_rows_workspace_size(channels, &bytes) == 0 && bytes <= 1 << 20);
  CHECK(dartquant_quantize(cpu, &hadamard, &wm, 1.0f, &q, space, bytes, 0, 1) == 0);
  for (part = 0; part < 2; ++part)
    CHECK(dartquant_quantize(cpu, &hadamard, &xm, 1.0f, &a, space, bytes, part, 2) == 0);
  CHECK(dartquant_dequantize(cpu, &q, &rm, space, bytes, 0, 1) == 0);
  CHECK(dartquant_hadamard(cpu, &hadamard, &xm, &hm, space, bytes, 0, 1) == 0);

  CHECK(dartquant_packed_size(&shape, &packed_bytes) == 0 && packed_bytes <= 16384);
  CHECK(dartquant_pack(&shape, &q, packed, packed_bytes, 0, 1) == 0);
  CHECK(dartquant_unpack(&shape, packed, packed_bytes, &back, 0, 1) == 0);
  CHECK(memcmp(w_levels, unpacked_levels, sizeof w_levels) == 0);
  CHECK(memcmp(w_scales, unpacked_scales, sizeof w_scales) == 0);

  CHECK(dartquant_matmul_workspace_size(&shape, tokens, 8, &bytes) == 0 && bytes <= 1 << 20);
  for (part = 0; part < 3; ++part)
    CHECK(dartquant_matmul(cpu, &shape, packed, packed_bytes, &a, bias, &ym, space, bytes, part, 3) == 0);
  multiply();
  for (t = 0; t < tokens; ++t)
    for (o = 0; o < outputs; ++o) CHECK(fabsf(y[t][o] - reference[t][o]) <= 1e-4f);

  CHECK(dartquant_matmul_workspace_size(&shape, tokens, 32, &bytes) == 0 && bytes <= 1 << 20);
  CHECK(dartquant_matmul_float(cpu, &shape, packed, packed_bytes, &hm, bias, &ym, space, bytes, 0, 1) == 0);
  for (t = 0; t < tokens; ++t) /* activations that were not rounded: within half a step each */
    for (o = 0; o < outputs; ++o) CHECK(fabsf(y[t][o] - reference[t][o]) <= 0.25f);
  CHECK(dartquant_to_q4_0(&q, &blocks[0][0], groups, 0, 1) == 0);
  CHECK((blocks[0][0].qs[0] & 15) == ((w_levels[0][0] & 15) ^ 8));
}

int dartquant_test_c_api(int* first_line) {
  dartquant_cpu cpu;
  int isa;
  failures = 0;
  first_failed_line = 0;
  fill();
  (void)dartquant_amx_request();
  CHECK(dartquant_cpu_detect(&cpu) == 0);
  for (isa = 0; isa < dartquant_isa_count; ++isa) {
    if (!dartquant_cpu_supports(&cpu, (dartquant_isa)isa)) continue;
    CHECK(dartquant_cpu_choose(&cpu, (dartquant_isa)isa) == 0);
    run(&cpu);
  }
  CHECK(dartquant_cpu_detect(NULL) == 256 * dartquant_arg_cpu + dartquant_null);
  CHECK(strcmp(dartquant_reason_text(dartquant_null), "is null") == 0);
  CHECK(strcmp(dartquant_argument_text(dartquant_arg_cpu), "cpu") == 0);
  CHECK(strcmp(dartquant_isa_name(dartquant_isa_portable), "portable") == 0);
  *first_line = first_failed_line;
  return failures;
}
