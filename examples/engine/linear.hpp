// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <dartquant/kernels.h>

#include "arena.hpp"
#include "workers.hpp"

namespace engine {

/// What every call shares: the processor, the threads, the memory.
struct Engine {
  Engine(int threads, std::size_t arena_bytes);

  dartquant_cpu cpu;
  Workers workers;
  Arena arena;
};

/// The online rotation of the inputs of a linear map: a Hadamard matrix on every block of its channels; block
/// 0: none.
struct Rotation {
  Rotation(std::int64_t channels, std::int64_t block);
  [[nodiscard]] dartquant_transform transform() const { return {nullptr, block, base.data(), base_order}; }

  std::int64_t channels, block, base_order = 1;
  std::vector<std::int8_t> base{1};
};

/// The weights of one linear map, rotated, rounded to 4 bits and packed into the arena once, when loading.
struct Linear {
  dartquant_weights shape;
  void const* packed;
  std::size_t bytes;
};

/// W [out, in] is rotated in place: (X H)(W H)^T = X W^T. `group` input channels share a scale; 0: all of
/// them.
[[nodiscard]] Linear load_linear(Engine& engine, Rotation const& rotation, float* W, std::int64_t out,
                                 std::int64_t in, std::int64_t group);

/// Rotates, quantizes and packs X [tokens, channels] in one pass: levels of 4 or 8 bits, one scale (and zero
/// point) per token. The result lives in the arena.
[[nodiscard]] dartquant_quantized quantize(Engine& engine, Rotation const& rotation, float* X,
                                           std::int64_t tokens, std::int32_t bits,
                                           dartquant_symmetry symmetry);
/// Rotates X [tokens, channels] in place.
void rotate(Engine& engine, Rotation const& rotation, float* X, std::int64_t tokens);

/// Y [tokens, out] <- X W^T, an equal share on every thread.
void multiply(Engine& engine, Linear const& linear, dartquant_quantized const& X, float* Y);
/// The same for X [tokens, in] in float.
void multiply_float(Engine& engine, Linear const& linear, float* X, std::int64_t tokens, float* Y);

}  // namespace engine
