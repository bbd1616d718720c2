// SPDX-License-Identifier: Apache-2.0
#pragma once

// The tensor instructions, and the few others that kernels reach through the thread, in PTX. What each means
// is written in plain C++ in tests/support/host_tensor_core.hpp, which runs the same kernels on the CPU.

#include <cstdint>

#include <dartquant/cuda/activations.cuh>
#include <dartquant/cuda/device_thread.cuh>

namespace dartquant::cuda {

__device__ inline std::uint32_t select_bytes(DeviceThread const&, std::uint32_t a, std::uint32_t b,
                                             std::uint32_t selector) {
  return __byte_perm(a, b, selector);
}

/// sum + the four signed bytes of the word.
__device__ inline std::int32_t sum_bytes(DeviceThread const&, std::uint32_t word, std::int32_t sum) {
  return __dp4a(static_cast<int>(word), 0x01010101, sum);
}

/// c [16, 8] += a [16, 32] b [32, 8] of signed bytes; a warp holds the operands as the PTX ISA lays out
/// mma.m16n8k32: lane 4 r + q has a of rows r, r + 8, r, r + 8 and channels 4 q .. (a[0], a[1]) and 16 + 4 q
/// .. (a[2], a[3]); b of column r and the same channels; c of rows r, r, r + 8, r + 8, columns 2 q, 2 q + 1.
__device__ inline void multiply_bytes(DeviceThread const&, int (&c)[4], std::uint32_t const (&a)[4],
                                      std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

/// Whether this code is for an architecture that multiplies nibbles in hardware; elsewhere kernels end at
/// once.
__device__ constexpr bool has_nibbles(DeviceThread const&) {
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
  return true;
#else
  return false;
#endif
}

/// c [16, 8] += a [16, 64] b [64, 8] of signed nibbles: as above with 8 channels in every word, 8 q .. and 32
/// + 8 q .... Only 8.0 <= architecture < 9.0 has the instruction; newer compilers replace it by a long
/// subroutine, so it is not there for them.
__device__ inline void multiply_nibbles(DeviceThread const&, int (&c)[4], std::uint32_t const (&a)[4],
                                        std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
  asm("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

/// c [16, 8] += a [16, 16] b [16, 8] of 16-bit floats, summed in float: lane 4 r + q has a of rows r, r + 8,
/// r, r + 8, channels 2 q, 2 q + 1 (a[0], a[1]) and 8 + 2 q, 9 + 2 q (a[2], a[3]); b of column r, the same.
__device__ inline void multiply_floats(DeviceThread const&, Half, float (&c)[4], std::uint32_t const (&a)[4],
                                       std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}
__device__ inline void multiply_floats(DeviceThread const&, BFloat16, float (&c)[4],
                                       std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

/// c [8, 8] += a [8, 4] b [4, 8] of doubles: lane 4 r + q has a of row r and column q, b of row q and column
/// r, c of row r and columns 2 q, 2 q + 1.
__device__ inline void multiply_doubles(DeviceThread const&, double (&c)[2], double a, double b) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1},{%2},{%3},{%0,%1};"
      : "+d"(c[0]), "+d"(c[1])
      : "d"(a), "d"(b));
#else
  __trap();
#endif
}

/// a - b of two 16-bit floats in a word.
__device__ inline std::uint32_t subtract_pair(DeviceThread const&, Half, std::uint32_t a, std::uint32_t b) {
  std::uint32_t difference = 0;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
  return difference;
}
__device__ inline std::uint32_t subtract_pair(DeviceThread const&, BFloat16, std::uint32_t a,
                                              std::uint32_t b) {
  std::uint32_t difference = 0;
#if __CUDA_ARCH__ >= 800
  // sub.bf16x2 needs 9.0; -1 b + a rounds the same exact difference.
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(b), "r"(0xBF80BF80u), "r"(a));
#endif
  return difference;
}

/// a / 16 - b of two binary16 in a word, rounded once.
__device__ inline std::uint32_t subtract_from_16th(DeviceThread const&, std::uint32_t a, std::uint32_t b) {
  std::uint32_t difference = 0;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(difference) : "r"(a), "r"(0x2C002C00u), "r"(b ^ 0x80008000u));
  return difference;
}

/// (word & mask) ^ flip: one operation, which compilers split where both are constants.
__device__ inline std::uint32_t mask_and_flip(DeviceThread const&, std::uint32_t word, std::uint32_t mask,
                                              std::uint32_t flip) {
  std::uint32_t result = 0;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(result) : "r"(word), "r"(mask), "r"(flip));
  return result;
}

/// 16 bytes of weights, which this kernel reads once: the caches near the processors need not keep them.
__device__ inline Words4 read_once(DeviceThread const&, Words4 const* address) {
  Words4 words;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(words.v[0]), "=r"(words.v[1]), "=r"(words.v[2]), "=r"(words.v[3])
               : "l"(address));
  return words;
}

/// Asks for the 128 bytes around an address to be brought into the cache of the device. It can be the stale
/// bytes of a location that is being written: who reads it later finds what is right.
__device__ inline void fetch_to_cache(DeviceThread const&, void const* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

/// Kernels that are launched to overlap their predecessors (Body::overlaps, see launch.cuh): the kernel
/// behind this one may start as soon as all blocks of this one have called let_dependents_start; what kernels
/// before this one have written is there when wait_for_predecessors returns, and they have read what they had
/// to. Without 9.0 and its instructions, kernels start one behind the other.
__device__ inline void let_dependents_start(DeviceThread const&) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_predecessors(DeviceThread const&) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace dartquant::cuda
