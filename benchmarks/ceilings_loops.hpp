// SPDX-License-Identifier: Apache-2.0
#pragma once

// Loops that do nothing but keep one unit of the processor busy. Plain data only, see
// src/cpu/kernel_table.hpp. Each returns something that depends on all of its work.

#include <cstddef>
#include <cstdint>

namespace dartquant::bench {

/// Operations of one iteration of the arithmetic loops.
inline constexpr double vnni_512_operations = 16 * 128, vnni_256_operations = 12 * 64,
                        avx2_int8_operations = 4 * 8 * 64, tiles_operations = 4 * 32768,
                        fma_512_operations = 16 * 32, fma_256_operations = 12 * 16,
                        fma_512_double_operations = 16 * 16, fma_256_double_operations = 12 * 8,
                        add_512_operations = 16 * 16, add_256_operations = 12 * 8;

int loop_vnni_512(std::int64_t iterations);
int loop_vnni_256(std::int64_t iterations);
int loop_avx2_int8(std::int64_t iterations);
int loop_tiles(std::int64_t iterations);
int loop_fma_512(std::int64_t iterations);
int loop_fma_256(std::int64_t iterations);
int loop_fma_512_double(std::int64_t iterations);
int loop_fma_256_double(std::int64_t iterations);
int loop_add_512(std::int64_t iterations);
int loop_add_256(std::int64_t iterations);

/// Bytes are multiples of 1024, data aligned to 64 bytes. `ahead`: bytes that are prefetched in advance; 0:
/// none.
int read_512(std::uint8_t const* data, std::size_t bytes, std::size_t ahead);
int read_256(std::uint8_t const* data, std::size_t bytes, std::size_t ahead);
void stream_512(std::uint8_t* data, std::size_t bytes);
void stream_256(std::uint8_t* data, std::size_t bytes);
void copy_512(std::uint8_t const* from, std::uint8_t* to, std::size_t bytes);  ///< non-temporal stores
void copy_256(std::uint8_t const* from, std::uint8_t* to, std::size_t bytes);

}  // namespace dartquant::bench
