// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
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

/// The same for one type and number of bits where every piece is whole and rows of y are aligned to 16 bytes:
/// `Each` pieces per thread, a block's threads side by side.
template <class T, int Bits, int Each>
struct DequantizeOctets {
  static constexpr int threads = 256, each = Each;
  DequantizeRows rows;

  template <class Thread>
  DARTQUANT_DEVICE void operator()(Thread const& thread) const {
    auto const& q = rows.q;
    std::uint32_t const first = static_cast<std::uint32_t>(thread.block_x()) * (threads * Each) +
                                static_cast<std::uint32_t>(thread.index());
    bool const symmetric = q.symmetry == Symmetry::symmetric;
    std::uint32_t words[Each][Bits / 4];
    float scale[Each];
    int zero_point[Each];
    T* to[Each];
    for (int k = 0; k < Each; ++k) {
      std::uint32_t const piece = first + static_cast<std::uint32_t>(k * threads);
      to[k] = nullptr;
      if (piece >= rows.pieces) continue;
      std::uint32_t const row = rows.row_pieces.quotient(piece),
                          col = 8 * (piece - row * rows.row_pieces.divisor);
      std::uint8_t const* const at = q.levels + row * q.level_stride + col * Bits / 8;
      if constexpr (Bits == 4) {
        words[k][0] = *reinterpret_cast<std::uint32_t const*>(at);
      } else {
        auto const both = *reinterpret_cast<std::uint64_t const*>(at);
        words[k][0] = static_cast<std::uint32_t>(both);
        words[k][1] = static_cast<std::uint32_t>(both >> 32);
      }
      std::uint32_t const group = rows.group.quotient(col);
      scale[k] = q.scales[row * q.scale_stride + group];
      zero_point[k] = symmetric ? 1 << (Bits - 1) : q.zero_points[row * q.zero_point_stride + group];
      to[k] = static_cast<T*>(rows.y.data) + row * rows.y.stride + col;
    }
    std::uint32_t const flip = !symmetric ? 0u : Bits == 4 ? 0x88888888u : 0x80808080u;
    for (int k = 0; k < Each; ++k) {
      if (to[k] == nullptr) continue;
      float x[8];
      convert(thread, words[k], flip, 8388608.0f + static_cast<float>(zero_point[k]), scale[k], x);
      if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<Float4*>(to[k]) = {{x[0], x[1], x[2], x[3]}};
        *reinterpret_cast<Float4*>(to[k] + 4) = {{x[4], x[5], x[6], x[7]}};
      } else {
        Words4 packed;
        for (int e = 0; e < 4; ++e) packed.x[e] = thread.template from_floats<T>(x[2 * e], x[2 * e + 1]);
        *reinterpret_cast<Words4*>(to[k]) = packed;
      }
    }
  }

 private:
  /// A code c between 0 and 255 in the low bits of 2^23 is the float 2^23 + c, from which `zero` = 2^23 +
  /// zero point is taken exactly.
  template <class Thread>
  DARTQUANT_DEVICE static void convert(Thread const& thread, std::uint32_t const (&words)[Bits / 4],
                                       std::uint32_t flip, float zero, float scale, float (&x)[8]) {
    for (int k = 0; k < 8; ++k) {
      std::uint32_t const word = Bits == 4 ? (words[0] ^ flip) >> (k % 2 == 0 ? 0 : 4) & 0x0F0F0F0Fu
                                           : words[k / 4 * (Bits / 8)] ^ flip;
      int const byte = Bits == 4 ? k / 2 : k % 4;
      float const code = std::bit_cast<float>(thread.below(0x4B000000u, word, byte));
      x[k] = scale * (code - zero);
    }
  }
};

}  // namespace dartquant::cuda
