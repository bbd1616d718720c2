// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <dartquant/core/view.hpp>
#include <dartquant/cuda/packed_weights.hpp>

namespace dartquant::cuda {

/// Which kernel computes a product. All give the same bytes for integers.
enum class MatmulPath {
  plain,        ///< one thread per value: any architecture, any group; correct, slow
  decode,       ///< up to 16 tokens, bound by reading the weights; mma.sync, 8.0 and newer
  mma_bytes,    ///< s8 mma.sync m16n8k32; 8.0 and newer
  mma_nibbles,  ///< s4 mma.sync m16n8k64; 8.0 to 8.9, which have it in hardware, and never 9.0 and newer
  wgmma,        ///< s8 wgmma m64n128k32; 9.0
  mma_floats    ///< W4A16: f16 or bf16 mma.sync m16n8k16; 8.0 and newer
};

[[nodiscard]] constexpr char const* name_of(MatmulPath path) {
  switch (path) {
    case MatmulPath::plain:
      return "plain";
    case MatmulPath::decode:
      return "decode";
    case MatmulPath::mma_bytes:
      return "mma_bytes";
    case MatmulPath::mma_nibbles:
      return "mma_nibbles";
    case MatmulPath::wgmma:
      return "wgmma";
    case MatmulPath::mma_floats:
      return "mma_floats";
  }
  return "unknown";
}

/// What a product is like.
struct MatmulShape {
  WeightShape weights;
  index_t tokens = 1;
  int x_bits = 4;  ///< 4, 8: quantized; 16, 32: floats
  Symmetry x_symmetry = Symmetry::symmetric;
};

/// What a GPU and the library's build for it can do: see matmul_target() in matmul.hpp.
struct MatmulTarget {
  int architecture = 0;  ///< 10 major + minor: 80, 89, 90, 100
  bool wgmma = false;    ///< compiled for sm_90a
};

/// The most channels under one scale of which sixteen-fold integers fit into 32 bits.
inline constexpr index_t most_tensor_channels = (index_t{1} << 17) - 1;
inline constexpr index_t most_decode_tokens = 16;

/// The kernel that `matmul` runs. Precondition: shape passes the checks of packed_weight_bytes.
[[nodiscard]] constexpr MatmulPath matmul_path(MatmulTarget const& target, MatmulShape const& shape) {
  WeightLayout const l = weight_layout(shape.weights);
  auto const whole = [&](index_t unit) { return l.groups == 1 || l.width % unit == 0; };
  if (target.architecture < 80 || !whole(32) || shape.x_bits == 32) return MatmulPath::plain;
  if (shape.x_bits == 16)
    return shape.tokens <= most_decode_tokens ? MatmulPath::decode : MatmulPath::mma_floats;
  if (l.width > most_tensor_channels) return MatmulPath::plain;
  if (shape.tokens <= most_decode_tokens) return MatmulPath::decode;
  if (target.architecture == 90 && target.wgmma && whole(128)) return MatmulPath::wgmma;
  bool const zero_points = shape.x_symmetry == Symmetry::asymmetric;
  if (target.architecture < 90 && shape.x_bits == 4 && whole(64) && (!zero_points || shape.weights.sums))
    return MatmulPath::mma_nibbles;
  return MatmulPath::mma_bytes;
}

}  // namespace dartquant::cuda
