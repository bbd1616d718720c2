// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <dartquant/core/half.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace dartquant::cuda {

/// The thread that runs the body of a kernel, on a GPU. A kernel is a trivially copyable struct whose members
/// are its parameters and whose body is
///
///     template <class Thread> DARTQUANT_DEVICE void operator()(Thread const& thread) const;
///
/// It asks everything of `thread`: who it is, barriers, shuffles, shared memory. `launch` (launch.cuh) runs
/// it with this class; tests run the same body on the CPU with HostThread (tests/support/host_thread.hpp),
/// which documents what each call means.
class DeviceThread {
 public:
  static constexpr int warp_size = 32;

  __device__ int index() const { return static_cast<int>(threadIdx.x); }  ///< in its block
  __device__ int count() const { return static_cast<int>(blockDim.x); }   ///< threads of a block
  __device__ int lane() const { return index() % warp_size; }
  __device__ int warp() const { return index() / warp_size; }
  __device__ int block_x() const { return static_cast<int>(blockIdx.x); }
  __device__ int block_y() const { return static_cast<int>(blockIdx.y); }
  __device__ int block_z() const { return static_cast<int>(blockIdx.z); }
  __device__ int blocks_x() const { return static_cast<int>(gridDim.x); }
  __device__ int blocks_y() const { return static_cast<int>(gridDim.y); }
  __device__ int blocks_z() const { return static_cast<int>(gridDim.z); }

  /// x, of which the compiler knows nothing: what is computed from it is computed where it stands, instead of
  /// in front of a loop and at the cost of a register all through it.
  __device__ static int here(int x) {
    asm volatile("" : "+r"(x));
    return x;
  }
  /// x, of which the compiler knows nothing but that equal ones are equal.
  template <class T>
  __device__ static T opaque(T x) {
    asm("" : "+r"(x));
    return x;
  }

  __device__ void synchronize() const { __syncthreads(); }
  __device__ void synchronize_warp() const { __syncwarp(); }

  /// The dynamic shared memory of the block, aligned to 128 bytes.
  __device__ std::byte* shared() const {
    extern __shared__ __align__(128) unsigned char dartquant_shared_memory[];
    return reinterpret_cast<std::byte*>(dartquant_shared_memory);
  }

  /// Shuffles of a whole warp; all 32 lanes take part.
  template <class T>
  __device__ T shuffle_xor(T value, int mask) const {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
  }
  template <class T>
  __device__ T shuffle_down(T value, int distance) const {
    return __shfl_down_sync(0xFFFFFFFFu, value, static_cast<unsigned>(distance));
  }
  template <class T>
  __device__ T shuffle(T value, int lane) const {
    return __shfl_sync(0xFFFFFFFFu, value, lane);
  }

  /// An asynchronous copy of `Bytes` (4, 8 or 16, both sides aligned to it) from global to shared memory, in
  /// the group that the next commit_copies closes. wait_copies<N> returns when all but the N newest groups of
  /// this thread have arrived.
  template <int Bytes>
  __device__ void copy_async(void* shared, void const* global) const {
    auto const target = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
    if constexpr (Bytes == 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(global) : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(global), "n"(Bytes)
                   : "memory");
  }
  __device__ void commit_copies() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int Pending>
  __device__ void wait_copies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  }

  template <class T>
  __device__ void atomic_add(T* target, T value) const {
    atomicAdd(target, value);
  }
  __device__ void atomic_max(std::uint32_t* target, std::uint32_t value) const { atomicMax(target, value); }

  /// The larger of two floats; NaN where either is one. Of zeros of both signs +0.
  __device__ static float max_nan(float a, float b) {
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return larger;
  }

  /// 1 / sqrt(x), to the last bit or two.
  __device__ static double inverse_root(double x) { return rsqrt(x); }

  /// Conversions by the hardware; the same values as core/half.hpp.
  __device__ static float to_float(float x) { return x; }
  __device__ static float to_float(Half x) { return __half2float(__ushort_as_half(x.bits)); }
  __device__ static float to_float(BFloat16 x) { return dartquant::to_float(x); }
  template <class T>
  __device__ static T from_float(float x) {
    if constexpr (sizeof(T) == sizeof(float)) return x;
    else if constexpr (__is_same(T, Half)) return T{__half_as_ushort(__float2half_rn(x))};
    else return T{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  }
  /// Two 16-bit ones at once, the first in the low half.
  template <class T>
  __device__ static std::uint32_t from_floats(float low, float high) {
    std::uint32_t pair;
    if constexpr (__is_same(T, Half)) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }
  /// The upper three bytes of `upper` and byte `k` of x.
  __device__ static std::uint32_t below(std::uint32_t upper, std::uint32_t x, int k) {
    return __byte_perm(x, upper, 0x7650u | static_cast<unsigned>(k));
  }
  /// +1 or -1, with the sign that is the top bit of byte `k` of x; the bytes are 0x3F or 0xBF, `rest` is 0x80,
  /// in a register.
  __device__ static float sign_of_byte(std::uint32_t x, int k, std::uint32_t rest) {
    return __uint_as_float(__byte_perm(x, rest, 0x0455u | static_cast<unsigned>(k) << 12));
  }
  /// The largest of the warp's numbers.
  __device__ static std::uint32_t reduce_max(std::uint32_t x) { return __reduce_max_sync(0xFFFFFFFFu, x); }
};

}  // namespace dartquant::cuda
