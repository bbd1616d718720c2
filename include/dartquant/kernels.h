/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The C kernel API: INT4 and INT8 rows, packed 4-bit weights, Hadamard transforms and products, for engines.
 *
 * Contract. Plain pointers into the caller's memory. No call allocates, throws, starts or waits for a thread,
 * reads the environment or keeps anything between calls (the one exception is dartquant_hadamard_base, a
 * set-up call). Every call that takes (part, parts) does one of `parts` disjoint shares of the work: run
 * parts 0 .. parts - 1 on any threads in any order, each with a workspace of its own. The bytes of a result
 * depend neither on `parts` nor on the instruction set, but for the payload of a NaN.
 *
 * Units. Strides of matrices, scales and zero points count elements, those of levels count bytes. Sizes
 * called *_bytes count bytes. Elements must be aligned as their type demands; packed weights and workspaces
 * to dartquant_alignment bytes. Structs describe; they are never kept. Data pointers of structs that a call
 * only reads are not written through.
 *
 * Errors. A call returns 0, or a status that says what is wrong with which argument, after checking all
 * arguments and before writing anything; dartquant_not_finite alone is found while working (see
 * dartquant_quantize). docs/int4_format.md describes every byte of every format. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status ----------------------------------------------------------------------------------------------
 */

/* 0: done. Otherwise 256 * argument + reason. */
typedef int32_t dartquant_status;

typedef enum dartquant_reason {
  dartquant_done = 0,
  dartquant_null = 1,         /* a pointer that is needed is null */
  dartquant_misaligned = 2,   /* a pointer is not aligned as its type or the contract demands */
  dartquant_bad_size = 3,     /* a size or stride is zero, negative, too small, or does not fit the others */
  dartquant_overflow = 4,     /* a size is so large that bytes or sums could overflow */
  dartquant_too_small = 5,    /* the buffer has fewer bytes than the matching *_size call says */
  dartquant_unsupported = 6,  /* not available on this machine or in this build, or no such format */
  dartquant_bad_value = 7,    /* outside the documented values */
  dartquant_not_finite = 8,   /* the data holds a NaN or an infinity */
  dartquant_mismatch = 9,     /* packed bytes that are not what the description says */
  dartquant_device_error = 10 /* the CUDA runtime refused a launch (cuda/kernels.h) */
} dartquant_reason;

typedef enum dartquant_argument {
  dartquant_arg_none = 0,
  dartquant_arg_cpu = 1,
  dartquant_arg_isa = 2,
  dartquant_arg_x = 3,           /* the input matrix or input rows */
  dartquant_arg_y = 4,           /* the output matrix */
  dartquant_arg_levels = 5,      /* dartquant_quantized.levels and its stride */
  dartquant_arg_scales = 6,      /* dartquant_quantized.scales and its stride */
  dartquant_arg_zero_points = 7, /* dartquant_quantized.zero_points and its stride */
  dartquant_arg_weights = 8,     /* dartquant_weights, or the quantized matrix that is packed */
  dartquant_arg_packed = 9,      /* packed weights, or blocks of another format */
  dartquant_arg_bias = 10,
  dartquant_arg_workspace = 11,
  dartquant_arg_transform = 12,
  dartquant_arg_permutation = 13,
  dartquant_arg_block = 14, /* dartquant_transform.block */
  dartquant_arg_base = 15,  /* dartquant_transform.base and base_order */
  dartquant_arg_bits = 16,
  dartquant_arg_symmetry = 17,
  dartquant_arg_group = 18,
  dartquant_arg_clip_ratio = 19,
  dartquant_arg_type = 20,
  dartquant_arg_rows = 21,
  dartquant_arg_cols = 22,
  dartquant_arg_stride = 23,
  dartquant_arg_part = 24,
  dartquant_arg_bytes = 25,  /* the pointer that receives a size */
  dartquant_arg_order = 26,  /* g_idx and other orders of channels */
  dartquant_arg_stream = 27, /* the CUDA stream (cuda/kernels.h) */
  dartquant_arg_norm = 28    /* dartquant_norm (cuda/kernels.h) */
} dartquant_argument;

dartquant_reason dartquant_status_reason(dartquant_status status);
dartquant_argument dartquant_status_argument(dartquant_status status);
/* Static texts, such as "is not aligned as its type or the contract demands" and "workspace". */
char const* dartquant_reason_text(dartquant_reason reason);
char const* dartquant_argument_text(dartquant_argument argument);

/* ---- the processor ---------------------------------------------------------------------------------------
 */

typedef enum dartquant_isa {
  dartquant_isa_portable = 0,
  dartquant_isa_avx2 = 1,         /* AVX2, FMA, F16C */
  dartquant_isa_avx_vnni = 2,     /* AVX2 and AVX-VNNI */
  dartquant_isa_avx512_vnni = 3,  /* AVX-512 F, BW, DQ, VL and VNNI */
  dartquant_isa_amx_int8 = 4,     /* the above and AMX tiles */
  dartquant_isa_neon_dotprod = 5, /* Arm NEON with the dot product instructions */
  dartquant_isa_neon_i8mm = 6     /* the above and the 8-bit matrix multiply instructions */
} dartquant_isa;
enum { dartquant_isa_count = 7, dartquant_alignment = 64 };

/* What the processor can do and what is used: filled once by dartquant_cpu_detect, then passed by const
 * pointer to every kernel. A caller's value; threads may share it. */
typedef struct dartquant_cpu {
  uint32_t tag;       /* set by dartquant_cpu_detect */
  uint32_t chosen;    /* a dartquant_isa */
  uint32_t supported; /* bit i: dartquant_isa i works on this machine and in this build */
  uint32_t reserved;
} dartquant_cpu;

/* Asks the processor and the operating system, and chooses the best instruction set. AMX counts as supported
 * only if the process already has the permission to use it, see dartquant_amx_request. */
dartquant_status dartquant_cpu_detect(dartquant_cpu* cpu);
/* Chooses one instruction set. Unsupported: `cpu` stays as it is. */
dartquant_status dartquant_cpu_choose(dartquant_cpu* cpu, dartquant_isa isa);
/* 1 or 0. */
int32_t dartquant_cpu_supports(dartquant_cpu const* cpu, dartquant_isa isa);
/* A static text such as "avx512_vnni"; "unknown" for any other number. */
char const* dartquant_isa_name(dartquant_isa isa);
/* Asks Linux for the permission to use AMX tiles, for the whole process and for good (signal frames of
 * threads that use tiles grow by 8 KiB). Call it before dartquant_cpu_detect, if at all.
 * dartquant_unsupported: there is no AMX here. */
dartquant_status dartquant_amx_request(void);

/* ---- descriptions ----------------------------------------------------------------------------------------
 */

typedef enum dartquant_type {
  dartquant_float32 = 0,
  dartquant_float16 = 1,
  dartquant_bfloat16 = 2
} dartquant_type;

/* Symmetric levels are two's complement, -2^(bits-1) .. 2^(bits-1) - 1; asymmetric ones 0 .. 2^bits - 1. */
typedef enum dartquant_symmetry { dartquant_symmetric = 0, dartquant_asymmetric = 1 } dartquant_symmetry;

/* A row-major matrix [rows, cols]. */
typedef struct dartquant_matrix {
  void* data;
  dartquant_type type;
  int64_t rows, cols;
  int64_t stride; /* elements from row to row, at least cols */
} dartquant_matrix;

/* A quantized row-major matrix [rows, cols]: value(i, j) = scale (level(i, j) - zero_point), scale and zero
 * point those of row i and group j / group. 4-bit levels: two per byte, the even channel in the low nibble.
 * 8-bit levels: one per byte. Used for activations, KV caches, and weights before they are packed. */
typedef struct dartquant_quantized {
  int64_t rows, cols;
  int32_t bits; /* 4 or 8 */
  dartquant_symmetry symmetry;
  int64_t group;        /* channels under one scale, any number; 0: the whole row. The last may be shorter */
  void* levels;         /* uint8_t or int8_t [rows, (cols + 1) / 2 bytes or cols bytes] */
  int64_t level_stride; /* bytes from row to row */
  float* scales;        /* [rows, groups of a row] */
  int64_t scale_stride; /* elements */
  int32_t* zero_points; /* as scales; null where symmetric */
  int64_t zero_point_stride; /* elements */
} dartquant_quantized;

/* ---- row kernels -----------------------------------------------------------------------------------------
 */

/* What happens to a row before it is stored or quantized: channels are permuted, y_j = x_permutation[j], then
 * every `block` of channels is multiplied from the right by the orthonormal Hadamard matrix
 * (base (x) Sylvester) / sqrt(block). block = base_order * 2^m, m <= 15; block divides the channels. */
typedef struct dartquant_transform {
  int32_t const* permutation; /* [cols], each channel once (not checked; each entry is); null: none */
  int64_t block;              /* 0: no Hadamard transform */
  int8_t const* base; /* [base_order, base_order] of +1 and -1 with base base^T = base_order I; null: [1] */
  int64_t base_order; /* 1 (or 0) without a base; at most 1024 */
} dartquant_transform;

/* Fills base [order, order] with the base of a block of `channels`, for the orders that are not a power of
 * two, and sets *order; *order = 1 means that no base is needed. Pass base = null to ask for the order alone.
 * A set-up call: it may use the heap. dartquant_unsupported: no Hadamard matrix of that order is known here.
 */
dartquant_status dartquant_hadamard_base(int64_t channels, int8_t* base, size_t base_bytes, int64_t* order);

/* Workspace of one part of the three calls below, for rows of `cols` channels. */
dartquant_status dartquant_rows_workspace_size(int64_t cols, size_t* bytes);

/* Y <- transform(X), X and Y [rows, cols] of any of the types; arithmetic in float. Y may be X (same data,
 * type and stride), else they must not overlap. Values that are not finite spread over their block.
 * Cost per value: m additions, and base_order / 4 + 3 more with a base. */
dartquant_status dartquant_hadamard(dartquant_cpu const* cpu, dartquant_transform const* transform,
                                    dartquant_matrix const* x, dartquant_matrix const* y, void* workspace,
                                    size_t workspace_bytes, int64_t part, int64_t parts);

/* q <- quantize(transform(X)) in one pass over memory: permute, transform, range of every group, levels,
 * packing. The range is multiplied by clip_ratio in (0, 1]. scale = max|x| / (2^(bits-1) - 1), or,
 * asymmetric, (max - min) / (2^bits - 1) over a range that holds 0, with zero_point = round(-min / scale);
 * the quotient is x * fl(1 / scale), rounded half to even, clamped. A group of zeros gets scale 1 and zero
 * levels. transform may be null. A group that holds a NaN or an infinity gets scale NaN, levels and zero
 * point 0; all other groups are as ever, and the call returns (x, dartquant_not_finite). A KV cache
 * [tokens, heads * head_dim] with one scale per token and head is group = head_dim, or rows = tokens * heads
 * of head_dim channels each; both give the same bytes. X and q must not overlap. */
dartquant_status dartquant_quantize(dartquant_cpu const* cpu, dartquant_transform const* transform,
                                    dartquant_matrix const* x, float clip_ratio, dartquant_quantized const* q,
                                    void* workspace, size_t workspace_bytes, int64_t part, int64_t parts);

/* Y <- scale (level - zero_point). */
dartquant_status dartquant_dequantize(dartquant_cpu const* cpu, dartquant_quantized const* q,
                                      dartquant_matrix const* y, void* workspace, size_t workspace_bytes,
                                      int64_t part, int64_t parts);

/* ---- packed weights --------------------------------------------------------------------------------------
 */

/* The shape of weights W [out, in] in the compute layout, layout id dartquant_layout (docs/int4_format.md).
 */
enum { dartquant_layout = 1 };
typedef struct dartquant_weights {
  int64_t out, in; /* in at most 2^20 */
  int64_t group;   /* input channels under one scale: a multiple of 8 (fast: 32 and more); 0: one scale per
                      output */
  dartquant_symmetry symmetry; /* asymmetric: levels 0..15 and a zero point per group */
  int32_t with_sums;           /* 1: also store sums of levels, which asymmetric 8-bit activations need */
} dartquant_weights;

dartquant_status dartquant_packed_size(dartquant_weights const* weights, size_t* bytes);
/* Packs a plain quantized matrix of the same shape, 4 bits, group and symmetry. */
dartquant_status dartquant_pack(dartquant_weights const* weights, dartquant_quantized const* q, void* packed,
                                size_t packed_bytes, int64_t part, int64_t parts);
/* The inverse: levels, scales and zero points come back bit for bit. */
dartquant_status dartquant_unpack(dartquant_weights const* weights, void const* packed, size_t packed_bytes,
                                  dartquant_quantized const* q, int64_t part, int64_t parts);

/* ---- products --------------------------------------------------------------------------------------------
 */

/* Workspace of one part of dartquant_matmul (x_bits 4 or 8) or dartquant_matmul_float (x_bits 16 or 32). */
dartquant_status dartquant_matmul_workspace_size(dartquant_weights const* weights, int64_t tokens,
                                                 int32_t x_bits, size_t* bytes);

/* W4A4 and W4A8: Y [tokens, out] <- X W^T + bias for quantized X [tokens, in] and packed W. X has one scale
 * per token, or groups equal to those of W. With exact integers n_g = sum over group g of (x - zero)(w -
 * zero): a = 0; for every g: a = fma(float(n_g), s_g, a), s_g = scale_w, times scale_x of the group where X
 * has groups; y = fma(a, scale_x, bias), or a + bias where X has groups; bias 0 where null. bias [out] or
 * null. Y: float32. */
dartquant_status dartquant_matmul(dartquant_cpu const* cpu, dartquant_weights const* weights,
                                  void const* packed, size_t packed_bytes, dartquant_quantized const* x,
                                  float const* bias, dartquant_matrix const* y, void* workspace,
                                  size_t workspace_bytes, int64_t part, int64_t parts);

/* W4A16 and W4A32: Y [tokens, out] <- X W^T + bias for X [tokens, in] of any type. A row of X is taken as
 * integers of 24 bits, its digits in base 256 as three rows of bytes that are multiplied like levels of 8
 * bits: u the least power of two >= 2^-149 such that no |x| is above 0x7F7F7F u; 65536 h + 256 m + l = x / u
 * rounded to an integer, halves away from zero, with h, m and l from -128 to 127; a_h, a_m and a_l the `a` of
 * dartquant_matmul for the rows h, m and l; y = (a_h + (a_m + a_l / 256) / 256) 65536 u + bias, every step
 * rounded to float. Within
 *   2^-22 max |x| sum |w| + (groups + 4) 2^-22 sum |x||w|
 * of the exact product; the first term is of the size of a float sum's rounding where some |x| is as large as
 * the rest together. A row of X that holds a NaN or an infinity makes its row of Y NaN. */
dartquant_status dartquant_matmul_float(dartquant_cpu const* cpu, dartquant_weights const* weights,
                                        void const* packed, size_t packed_bytes, dartquant_matrix const* x,
                                        float const* bias, dartquant_matrix const* y, void* workspace,
                                        size_t workspace_bytes, int64_t part, int64_t parts);

/* ---- other formats ---------------------------------------------------------------------------------------
 */

/* The 4-bit and 8-bit formats of ggml and of checkpoint files; every bit is described in docs/int4_format.md.
 * Words and float16 numbers are in the byte order of the machine, which must be little-endian to match files.
 *
 * All conversions move levels exactly and take the shape W [rows = out, cols = in] from the quantized matrix.
 * Scales are float32 in it: on the way out they are rounded to the other type, to nearest even, on the way in
 * they are exact. A scale that is not finite then is stored as it is; the call does everything else as ever
 * and returns (scales, dartquant_not_finite). Buffers must not overlap. Cost: one pass over all bytes. */

/* ggml's blocks of 32 channels; d is a float16. Rows of blocks are `block_stride` blocks apart, at least
 * cols / 32; cols is a multiple of 32. */
typedef struct dartquant_block_q4_0 {
  uint16_t d;
  uint8_t qs[16]; /* byte j: channel j in the low nibble, channel j + 16 in the high one; value d (qs - 8) */
} dartquant_block_q4_0;
typedef struct dartquant_block_q8_0 {
  uint16_t d;
  int8_t qs[32]; /* value d qs */
} dartquant_block_q8_0;
#ifdef __cplusplus
static_assert(sizeof(dartquant_block_q4_0) == 18 && alignof(dartquant_block_q4_0) == 2, "ggml's block_q4_0");
static_assert(sizeof(dartquant_block_q8_0) == 34 && alignof(dartquant_block_q8_0) == 2, "ggml's block_q8_0");
#elif __STDC_VERSION__ >= 201112L
_Static_assert(sizeof(dartquant_block_q4_0) == 18 && _Alignof(dartquant_block_q4_0) == 2,
               "ggml's block_q4_0");
_Static_assert(sizeof(dartquant_block_q8_0) == 34 && _Alignof(dartquant_block_q8_0) == 2,
               "ggml's block_q8_0");
#endif

/* X [rows, cols] of any type -> blocks, with the bytes of ggml's reference quantizers: in float32,
 *   Q4_0: d = m / -8, m the value of largest magnitude (the first of equals); qs = min(15, trunc(x / d
 * + 8.5)) Q8_0: d = max|x| / 127; qs = round(x / d), halves away from zero where x / d is x * fl(1 / d), 0
 * where 1 / d is not finite, and d is rounded to float16 only for storage. A block that holds a NaN or an
 * infinity gets d = NaN (0x7E00) and levels 0; all other blocks are as ever, and the call returns (x,
 * dartquant_not_finite). A d beyond float16 becomes infinite, as in ggml: (scales, dartquant_not_finite),
 * unless x is to be reported. Parts are rows. */
dartquant_status dartquant_quantize_q4_0(dartquant_matrix const* x, dartquant_block_q4_0* blocks,
                                         int64_t block_stride, int64_t part, int64_t parts);
dartquant_status dartquant_quantize_q8_0(dartquant_matrix const* x, dartquant_block_q8_0* blocks,
                                         int64_t block_stride, int64_t part, int64_t parts);

/* Between blocks and a quantized matrix that is symmetric, in groups of 32, with 4 bits for Q4_0 and 8 bits
 * for Q8_0. Parts are rows. */
dartquant_status dartquant_to_q4_0(dartquant_quantized const* q, dartquant_block_q4_0* blocks,
                                   int64_t block_stride, int64_t part, int64_t parts);
dartquant_status dartquant_to_q8_0(dartquant_quantized const* q, dartquant_block_q8_0* blocks,
                                   int64_t block_stride, int64_t part, int64_t parts);
dartquant_status dartquant_from_q4_0(dartquant_block_q4_0 const* blocks, int64_t block_stride,
                                     dartquant_quantized const* q, int64_t part, int64_t parts);
dartquant_status dartquant_from_q8_0(dartquant_block_q8_0 const* blocks, int64_t block_stride,
                                     dartquant_quantized const* q, int64_t part, int64_t parts);

/* compressed-tensors, format pack-quantized, 4 or 8 bits, any group and shape. Stored codes are unsigned:
 * level
 * + 2^(bits-1) where symmetric, the level itself where asymmetric; the first channel in the lowest bits of a
 * word. Parts are blocks of 8 rows. */
typedef struct dartquant_compressed_tensors {
  int32_t* weight_packed;        /* [rows, ceil(cols bits / 32)] */
  dartquant_matrix weight_scale; /* [rows, groups] of any type */
  int32_t* weight_zero_point;    /* [ceil(rows bits / 32), groups]; null where symmetric */
} dartquant_compressed_tensors;

dartquant_status dartquant_to_compressed_tensors(dartquant_quantized const* q,
                                                 dartquant_compressed_tensors const* tensors, int64_t part,
                                                 int64_t parts);
dartquant_status dartquant_from_compressed_tensors(dartquant_compressed_tensors const* tensors,
                                                   dartquant_quantized const* q, int64_t part, int64_t parts);

/* How a GPTQ checkpoint stores a zero point: v1 (zero - 1) mod 16, so that 0 is stored as 15, v2 as it is. 15
 * is read as 0 from v1; readers that do not take the sum modulo 16 see 16 there, so prefer v2 for zeros of 0.
 */
typedef enum dartquant_gptq_version { dartquant_gptq_v1 = 1, dartquant_gptq_v2 = 2 } dartquant_gptq_version;

/* GPTQ, 4 bits, any group; rows and cols are multiples of 8. An asymmetric matrix has levels 0..15 like the
 * file; a symmetric one is stored as level + 8 with zero points 8, and read only if all of them are 8, else
 * (zero_points, dartquant_bad_value). Parts are blocks of 8 rows. */
typedef struct dartquant_gptq {
  dartquant_gptq_version version;
  int32_t* qweight;        /* [cols / 8, rows]: 8 consecutive inputs, the first in the low nibble */
  int32_t* qzeros;         /* [groups, rows / 8]: 8 consecutive outputs, the first in the low nibble */
  dartquant_matrix scales; /* [groups, rows] of any type, float16 in files */
  int32_t* g_idx; /* [cols], the group of each input, or null. Written as i / group; read only if it is
                     that, else (order, dartquant_unsupported): sort the inputs by group first */
} dartquant_gptq;

dartquant_status dartquant_to_gptq(dartquant_quantized const* q, dartquant_gptq const* gptq, int64_t part,
                                   int64_t parts);
dartquant_status dartquant_from_gptq(dartquant_gptq const* gptq, dartquant_quantized const* q, int64_t part,
                                     int64_t parts);

/* AWQ (GEMM version), 4 bits; rows is a multiple of 8 and cols one of the group. Symmetric as for GPTQ. The
 * nibbles of a word, low to high, are the outputs 0 2 4 6 1 3 5 7 of 8. Parts are blocks of 8 rows. */
typedef struct dartquant_awq {
  int32_t* qweight;        /* [cols, rows / 8] */
  int32_t* qzeros;         /* [groups, rows / 8] */
  dartquant_matrix scales; /* [groups, rows] of any type, float16 in files */
} dartquant_awq;

dartquant_status dartquant_to_awq(dartquant_quantized const* q, dartquant_awq const* awq, int64_t part,
                                  int64_t parts);
dartquant_status dartquant_from_awq(dartquant_awq const* awq, dartquant_quantized const* q, int64_t part,
                                    int64_t parts);

#ifdef __cplusplus
}
#endif
