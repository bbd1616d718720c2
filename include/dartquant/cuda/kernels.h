/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The C kernel API on a GPU: the calls of kernels.h for a CUDA stream, first those on rows, then products.
 * Linked from DartQuant::cuda.
 *
 * Contract. Every call on rows enqueues one kernel on the caller's stream (a cudaStream_t of the current device;
 * null: the default stream) and returns. It allocates nothing, waits for nothing, keeps nothing and needs no
 * workspace; CUDA graphs may capture it. Pointers in the structs are to device memory, which is not checked;
 * what lies there is read when the stream gets to it. The bytes of a result are those of the calls of
 * kernels.h, on every GPU, but for the payload of a NaN, and but for RMSNorm, which the CPU has no call for.
 *
 * Errors. A call returns 0 or a status of kernels.h, after checking all arguments and before anything is
 * enqueued. What only the data shows is not reported: a group that holds a NaN or an infinity gets scale NaN,
 * levels and zero point 0; an entry of a permutation outside the channels counts as the last channel; of a
 * base only the signs are read; zero points are used as they are. (stream, dartquant_device_error): the
 * runtime refused the launch, for example because this build has no code for the GPU. (cols,
 * dartquant_unsupported): see dartquant_cuda_rows_supported.
 *
 * Speed. Every byte of x is read once and every byte of a result is written once: 16 bytes at a time where
 * rows are aligned to 16 bytes and a multiple of 32 channels wide, as those of models' layers are, else value
 * by value with the same result. */

#include <dartquant/kernels.h>

#ifdef __cplusplus
extern "C" {
#endif

/* RMSNorm before a transform: x_j <- x_j gain_j / sqrt(mean(x^2) + epsilon). It is computed as one factor per
 * row behind the transform, so a value differs from that order by roundings: with stages = log2(block) +
 * base_order by at most (2 stages + 22) 2^-24 of the norm of the row. */
typedef struct dartquant_norm {
  void const* gain; /* [cols], or null: 1 */
  dartquant_type gain_type;
  double epsilon; /* at least 0 */
} dartquant_norm;

/* Whether the calls below do this on the current device: 0, or (cols, dartquant_unsupported) where a row does
 * not fit into the shared memory of a block. Whole rows are needed with a permutation, with a norm and with
 * one scale per row (at most 32768 channels; on GPUs with 99 KiB of shared memory per block 25088, fewer with
 * a norm); else a block and a group must fit. norm and q may be null. Other errors as the calls. */
dartquant_status dartquant_cuda_rows_supported(dartquant_norm const* norm,
                                               dartquant_transform const* transform,
                                               dartquant_matrix const* x, dartquant_quantized const* q);

/* Y <- transform(norm(X)), see dartquant_hadamard. norm may be null. Y may be X (same data, type and stride),
 * else they must not overlap. Bytes per value: those of x and of y. */
dartquant_status dartquant_cuda_hadamard(void* stream, dartquant_norm const* norm,
                                         dartquant_transform const* transform, dartquant_matrix const* x,
                                         dartquant_matrix const* y);

/* q <- quantize(transform(norm(X))), see dartquant_quantize. norm and transform may be null. Bytes per value:
 * those of x, bits / 8, and 4 (asymmetric: 8) per group. A KV cache [tokens, heads * head_dim] with one scale
 * per token and head is group = head_dim, with a Hadamard transform per head block = head_dim. */
dartquant_status dartquant_cuda_quantize(void* stream, dartquant_norm const* norm,
                                         dartquant_transform const* transform, dartquant_matrix const* x,
                                         float clip_ratio, dartquant_quantized const* q);

/* Y <- scale (level - zero_point), see dartquant_dequantize. */
dartquant_status dartquant_cuda_dequantize(void* stream, dartquant_quantized const* q,
                                           dartquant_matrix const* y);

/* DuQuant's step: channels are permuted, y_j = x_permutation[j], then every `block` of them is multiplied
 * from the right by a dense matrix. zigzag permutations and rotations come from a calibration. */
typedef struct dartquant_block_rotation {
  int32_t const* permutation; /* [cols], or null: none */
  float const* rotations;     /* [count, block, block], row-major */
  int64_t block;              /* at most 128; divides the channels */
  int64_t count;              /* 1: one matrix for all blocks, else cols / block */
} dartquant_block_rotation;

/* Y <- P(X) blockdiag(R_0, R_1, ...); a value is the sum of x_i R(i, j) from i = 0 upwards by FMAs. Without a
 * permutation Y may be X, else they must not overlap. Needs 97 KiB of shared memory per block for blocks of
 * 128 channels, else (block, dartquant_unsupported). Bound by 128 FMAs per value, not by memory. */
dartquant_status dartquant_cuda_rotate_blocks(void* stream, dartquant_block_rotation const* rotation,
                                              dartquant_matrix const* x, dartquant_matrix const* y);

/* Products with packed 4-bit weights: layout id 2 of docs/int4_format.md, aligned to 128 bytes. The contract is
 * that of the rows, but for workspaces, aligned to 256 and the caller's, and up to three kernels a call. Bytes of
 * results are those of dartquant_matmul of kernels.h. Pointers in the structs are to device memory, but for those
 * of dartquant_cuda_pack: they are checked, (packed, dartquant_unsupported) and alike say that one is not. */

enum { dartquant_cuda_layout = 2, dartquant_cuda_alignment = 128, dartquant_cuda_workspace_alignment = 256 };

/* Bytes of packed weights. Groups may have any size here; tensor cores take multiples of 32. */
dartquant_status dartquant_cuda_packed_size(dartquant_weights const* weights, size_t* bytes);
/* Packs a plain quantized matrix of the same shape, 4 bits, group and symmetry, all in host memory; copy
 * `packed` to the device as it is. Needs no GPU. */
dartquant_status dartquant_cuda_pack(dartquant_weights const* weights, dartquant_quantized const* q,
                                     void* packed, size_t packed_bytes);

/* Which kernel of the current device computes a product: a static text, "decode", "mma_bytes", "mma_nibbles",
 * "wgmma", "mma_floats", or "plain", which is correct and slow; "unknown" where an argument is wrong or there is
 * no device. x_bits: 4, 8, 16, 32. */
char const* dartquant_cuda_matmul_path(dartquant_weights const* weights, int64_t tokens, int32_t x_bits,
                                       dartquant_symmetry x_symmetry);
/* Workspace on the current device; 0 up to 16 tokens. */
dartquant_status dartquant_cuda_matmul_workspace_size(dartquant_weights const* weights, int64_t tokens,
                                                      int32_t x_bits, dartquant_symmetry x_symmetry,
                                                      size_t* bytes);

/* W4A4 and W4A8, see dartquant_matmul. Y may be of any type; 16-bit values are the float32 ones, rounded to
 * nearest even. Zero points of X must be levels; they are not read before the stream gets to them. */
dartquant_status dartquant_cuda_matmul(void* stream, dartquant_weights const* weights, void const* packed,
                                       size_t packed_bytes, dartquant_quantized const* x, float const* bias,
                                       dartquant_matrix const* y, void* workspace, size_t workspace_bytes);

/* W4A16 and W4A32: the product of dartquant_matmul_float, X of any type, Y of float32 or of X's type. Not with
 * its bytes: weights are dequantized on the way and products summed in float, within 2 (in + groups) 2^-24 sum
 * |x||w| of the exact product (tensor cores truncate partial sums). NaN and infinity propagate. */
dartquant_status dartquant_cuda_matmul_float(void* stream, dartquant_weights const* weights, void const* packed,
                                             size_t packed_bytes, dartquant_matrix const* x, float const* bias,
                                             dartquant_matrix const* y);

#ifdef __cplusplus
}
#endif
