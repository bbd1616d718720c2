/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The C kernel API on a GPU: products with packed 4-bit weights for a CUDA stream; beside cuda/kernels.h, whose
 * contract holds here: a call enqueues on the caller's stream (a cudaStream_t of the current device, null: the
 * default stream) and returns; no allocation, no wait, nothing kept. Linked from DartQuant::cuda.
 *
 * Bytes of results are those of dartquant_matmul of kernels.h. Pointers in the structs are to device memory, but
 * for those of dartquant_cuda_pack. Packed weights are layout id 2 of docs/int4_format.md, aligned to 128 bytes;
 * workspaces are aligned to 256.
 *
 * Errors. 0 or a status of kernels.h, before anything is enqueued. (packed, dartquant_unsupported) and alike:
 * the pointer is not to device memory. (stream, dartquant_device_error): the CUDA runtime refused. */

#include <dartquant/kernels.h>

#ifdef __cplusplus
extern "C" {
#endif

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

/* W4A16 and W4A32, see dartquant_matmul_float: X of any type, Y of float32 or of X's type. The bound is twice
 * that of the CPU: tensor cores truncate partial sums. */
dartquant_status dartquant_cuda_matmul_float(void* stream, dartquant_weights const* weights, void const* packed,
                                             size_t packed_bytes, dartquant_matrix const* x, float const* bias,
                                             dartquant_matrix const* y);

#ifdef __cplusplus
}
#endif
