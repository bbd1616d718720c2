// SPDX-License-Identifier: Apache-2.0
#pragma once

// What only sm_90a has: barriers that count bytes, bulk copies into shared memory, and the tensor
// instructions of a warpgroup (4 warps). Their meaning in plain C++ is in tests/support/host_warpgroup.hpp.

#include <cstdint>

#include <dartquant/cuda/device_thread.cuh>

namespace dartquant::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Whether this code is for an architecture that has these instructions; elsewhere kernels end at once.
__device__ constexpr bool has_warpgroups(DeviceThread const&) { return true; }

namespace detail {
__device__ inline std::uint32_t shared_address(void const* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}
}  // namespace detail

/// A barrier in shared memory whose phase ends after `count` arrivals and all expected bytes.
__device__ inline void barrier_start(DeviceThread const&, std::uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(detail::shared_address(barrier)), "r"(count)
               : "memory");
}
/// Makes the starts of barriers known to bulk copies; before the threads of the block meet.
__device__ inline void barriers_started(DeviceThread const&) {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void barrier_arrive(DeviceThread const&, std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(detail::shared_address(barrier)) : "memory");
}
/// Arrives, and has the phase wait for `bytes` of bulk copies.
__device__ inline void barrier_expect(DeviceThread const&, std::uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(detail::shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
/// Waits until the phase of this parity has ended: 0 for the first, 1 for the second ... Of a barrier that
/// has just started, parity 1 has. A whole warp waits together.
__device__ inline void barrier_wait(DeviceThread const&, std::uint64_t* barrier, int parity) {
  asm volatile(
      "{ .reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ready; bra again;\n"
      "ready: }" ::"r"(detail::shared_address(barrier)),
      "r"(parity)
      : "memory");
}
/// Copies `bytes` (a multiple of 16, both sides aligned to 16) and reports them to the barrier.
__device__ inline void bulk_copy(DeviceThread const&, void* shared, void const* global, int bytes,
                                 std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          detail::shared_address(shared)),
      "l"(global), "r"(bytes), "r"(detail::shared_address(barrier))
      : "memory");
}

/// Before the first multiply_warpgroup after registers were written.
__device__ inline void warpgroup_fence(DeviceThread const&) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// Closes a group of multiply_warpgroup. warpgroup_wait<N> returns when all but the N newest groups are done.
__device__ inline void warpgroup_commit(DeviceThread const&) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending>
__device__ void warpgroup_wait(DeviceThread const&) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// Keeps the compiler from moving reads and writes of operands and sums across running instructions: before
/// the fence, after the wait.
template <class Word, int Rows>
__device__ void hold(DeviceThread const&, Word (&words)[Rows][4]) {
#pragma unroll
  for (int j = 0; j < Rows; ++j)
#pragma unroll
    for (int c = 0; c < 4; ++c) asm volatile("" : "+r"(words[j][c])::"memory");
}

/// d [64, 128] = a [64, 32] b [32, 128] of signed bytes, + d where `accumulate`. Warp w of the warpgroup
/// holds rows 16 w .. of a and d, spread over its lanes as multiply_bytes spreads them; d[j] are columns 8 j
/// ... b lies in shared memory as 16 x 2 core matrices of 8 columns x 16 bytes of K, each 128 consecutive
/// bytes: the two of K side by side, those of the next 8 columns 1024 bytes on.
__device__ inline void multiply_warpgroup(DeviceThread const&, std::int32_t (&d)[16][4],
                                          std::uint32_t const (&a)[4], std::byte const* b, bool accumulate) {
  // Matrix descriptor, no swizzle: address / 16 | leading offset 128 / 16 | stride offset 1024 / 16.
  std::uint64_t const descriptor = static_cast<std::uint64_t>((detail::shared_address(b) & 0x3FFFFu) >> 4) |
                                   std::uint64_t{128 >> 4} << 16 | std::uint64_t{1024 >> 4} << 32;
  // clang-format off
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
      "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,"
      "%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
      "}, {%64,%65,%66,%67}, %68, p; }"
      : "+r"(d[0][0]), "+r"(d[0][1]), "+r"(d[0][2]), "+r"(d[0][3]), "+r"(d[1][0]), "+r"(d[1][1]),
        "+r"(d[1][2]), "+r"(d[1][3]), "+r"(d[2][0]), "+r"(d[2][1]), "+r"(d[2][2]), "+r"(d[2][3]),
        "+r"(d[3][0]), "+r"(d[3][1]), "+r"(d[3][2]), "+r"(d[3][3]), "+r"(d[4][0]), "+r"(d[4][1]),
        "+r"(d[4][2]), "+r"(d[4][3]), "+r"(d[5][0]), "+r"(d[5][1]), "+r"(d[5][2]), "+r"(d[5][3]),
        "+r"(d[6][0]), "+r"(d[6][1]), "+r"(d[6][2]), "+r"(d[6][3]), "+r"(d[7][0]), "+r"(d[7][1]),
        "+r"(d[7][2]), "+r"(d[7][3]), "+r"(d[8][0]), "+r"(d[8][1]), "+r"(d[8][2]), "+r"(d[8][3]),
        "+r"(d[9][0]), "+r"(d[9][1]), "+r"(d[9][2]), "+r"(d[9][3]), "+r"(d[10][0]), "+r"(d[10][1]),
        "+r"(d[10][2]), "+r"(d[10][3]), "+r"(d[11][0]), "+r"(d[11][1]), "+r"(d[11][2]),
        "+r"(d[11][3]), "+r"(d[12][0]), "+r"(d[12][1]), "+r"(d[12][2]), "+r"(d[12][3]),
        "+r"(d[13][0]), "+r"(d[13][1]), "+r"(d[13][2]), "+r"(d[13][3]), "+r"(d[14][0]),
        "+r"(d[14][1]), "+r"(d[14][2]), "+r"(d[14][3]), "+r"(d[15][0]), "+r"(d[15][1]),
        "+r"(d[15][2]), "+r"(d[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor), "r"(static_cast<int>(accumulate)));
  // clang-format on
}

#else

// Other architectures compile the kernels that use these, and never run them.
__device__ constexpr bool has_warpgroups(DeviceThread const&) { return false; }
__device__ inline void barrier_start(DeviceThread const&, std::uint64_t*, int) { __trap(); }
__device__ inline void barriers_started(DeviceThread const&) {}
__device__ inline void barrier_arrive(DeviceThread const&, std::uint64_t*) { __trap(); }
__device__ inline void barrier_expect(DeviceThread const&, std::uint64_t*, int) { __trap(); }
__device__ inline void barrier_wait(DeviceThread const&, std::uint64_t*, int) { __trap(); }
__device__ inline void bulk_copy(DeviceThread const&, void*, void const*, int, std::uint64_t*) { __trap(); }
__device__ inline void warpgroup_fence(DeviceThread const&) {}
__device__ inline void warpgroup_commit(DeviceThread const&) {}
template <int Pending>
__device__ void warpgroup_wait(DeviceThread const&) {}
template <class Word, int Rows>
__device__ void hold(DeviceThread const&, Word (&)[Rows][4]) {}
__device__ inline void multiply_warpgroup(DeviceThread const&, std::int32_t (&)[16][4],
                                          std::uint32_t const (&)[4], std::byte const*, bool) {
  __trap();
}

#endif

}  // namespace dartquant::cuda
