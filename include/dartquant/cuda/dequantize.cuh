// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <dartquant/cuda/row_tile.cuh>
#include <dartquant/quant/int4.hpp>
#include <dartquant/quant/scale.hpp>

namespace dartquant::cuda {

/// Y <- scale (level - zero_point), with the bytes of dartquant_dequantize: 8 channels of a row per thread.
/// Per value: 1/2 or 1 byte read and the bytes of y written; scales come from the L1 cache.
struct DequantizeRows {
  static constexpr int threads = 256;
  ConstQuantizedRows q;
  StoredRows y;
  std::uint32_t pieces = 0;  ///< of all rows
  Divider row_pieces;        ///< ceil(cols / 8)
  Divider group;
  int whole = 0;  ///< 1: a piece lies in one group, and its levels on a multiple of their size

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    std::uint32_t const piece =
        static_cast<std::uint32_t>(thread.block_x()) * threads + static_cast<std::uint32_t>(thread.index());
    if (piece >= pieces) return;
    std::uint32_t const row = row_pieces.quotient(piece), first = 8 * (piece - row * row_pieces.divisor);
    int const count = q.cols - first < 8 ? static_cast<int>(q.cols - first) : 8;
    float x[8];
    if (whole != 0 && count == 8) {
      std::uint32_t words[2] = {0, 0};
      std::uint8_t const* const at =
          q.levels + row * q.level_stride + first * static_cast<unsigned>(q.bits) / 8;
      if (q.bits == 4) {
        words[0] = *reinterpret_cast<std::uint32_t const*>(at);
      } else {
        auto const both = *reinterpret_cast<std::uint64_t const*>(at);
        words[0] = static_cast<std::uint32_t>(both);
        words[1] = static_cast<std::uint32_t>(both >> 32);
      }
      float const scale = scale_of(row, first);
      int const zero_point = zero_point_of(row, first);
      for (int k = 0; k < 8; ++k) {
        std::uint32_t const code =
            q.bits == 4 ? words[0] >> (4 * k) & 15u : words[k / 4] >> (8 * (k % 4)) & 255u;
        x[k] = scale * static_cast<float>(level_of(code) - zero_point);
      }
    } else {
      for (int k = 0; k < 8; ++k) {
        x[k] = 0;
        if (k >= count) continue;
        std::uint32_t const col = first + static_cast<unsigned>(k);
        std::uint8_t const byte = q.levels[row * q.level_stride + (q.bits == 4 ? col / 2 : col)];
        std::uint32_t const code = q.bits == 8 ? byte : col % 2 == 0 ? byte & 15u : byte >> 4;
        x[k] = scale_of(row, col) * static_cast<float>(level_of(code) - zero_point_of(row, col));
      }
    }
    for (int side = 0; side < 2; ++side) {
      if (count <= 4 * side) break;
      float const part[4] = {x[4 * side], x[4 * side + 1], x[4 * side + 2], x[4 * side + 3]};
      store_vector(thread, part, 1.0f, y.data, y.type, row * y.stride + first + 4 * side, count - 4 * side,
                   y.vectors != 0);
    }
  }

 private:
  DARTQUANT_DEVICE int level_of(std::uint32_t code) const {
    int const flip = q.symmetry == Symmetry::symmetric ? 1 << (q.bits - 1) : 0;
    return (static_cast<int>(code) ^ flip) - flip;
  }
  DARTQUANT_DEVICE float scale_of(std::uint32_t row, std::uint32_t col) const {
    return q.scales[row * q.scale_stride + group.quotient(col)];
  }
  DARTQUANT_DEVICE int zero_point_of(std::uint32_t row, std::uint32_t col) const {
    if (q.symmetry == Symmetry::symmetric) return 0;
    return q.zero_points[row * q.zero_point_stride + group.quotient(col)];
  }
};

}  // namespace dartquant::cuda
