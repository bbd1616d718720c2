// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>

namespace dartquant::cuda {

/// What of a device decides how a product of few tokens is shared out.
struct DecodeDevice {
  int shared_bytes = 48 * 1024;  ///< of a block, at most (opt-in)
  int multiprocessors = 1;
};

/// What of a product and its kernel does.
struct DecodeShape {
  int panels;         ///< of 16 outputs
  int tiles;          ///< of 64 channels, of a panel
  int tokens;         ///< <= 16
  int x_bits;         ///< 4, 8, 16
  int panels_of_set;  ///< that a block computes at a time
  int bite;           ///< tiles of each of them that a warp reads at a time
  int slot_bytes;     ///< of shared memory where sums meet
};

/// Who computes what. A block has 16 warps and takes every blocks-th set of panels. The tiles of a set are
/// shared out in rounds: in each, every warp has `bite` consecutive tiles. Activations of `slice` rounds at a
/// time lie in shared memory: of all if they fit, else of two slices, one that is used and the next.
struct DecodePlan {
  static constexpr int warps = 16;
  int rounds = 1, slice = 1;
  int slice_bytes = 0;  ///< of a token's activations of a slice
  int row_stride = 0;   ///< bytes between tokens in shared memory
  int slot_offset = 0;  ///< in shared memory, behind the activations
  int sets = 0, blocks = 0, bytes = 0;

  [[nodiscard]] DARTQUANT_HD constexpr int slices() const { return (rounds + slice - 1) / slice; }
  [[nodiscard]] Grid grid() const {
    return {.blocks_x = blocks, .shared_bytes = static_cast<std::size_t>(bytes)};
  }
};

/// The plan of a product; its `bytes` are more than the device has if there is none: compute fewer tokens
/// then.
[[nodiscard]] constexpr DecodePlan decode_plan(DecodeShape const& s, DecodeDevice const& device) {
  DecodePlan plan;
  plan.sets = (s.panels + s.panels_of_set - 1) / s.panels_of_set;
  plan.blocks = std::min(plan.sets, std::max(1, device.multiprocessors));
  int const round_tiles = DecodePlan::warps * s.bite, round_bytes = round_tiles * 8 * s.x_bits;
  int const pad = 4 * s.x_bits;  // rows start in banks that lanes read without conflicts
  int const left = device.shared_bytes - s.slot_bytes;
  plan.rounds = plan.slice = (s.tiles + round_tiles - 1) / round_tiles;
  int stages = 1;
  if (s.tokens * (plan.slice * round_bytes + pad) > left) {
    stages = 2;
    plan.slice = std::max(1, (left / 2 / s.tokens - pad) / round_bytes);
  }
  plan.slice_bytes = plan.slice * round_bytes;
  plan.row_stride = plan.slice_bytes + pad;
  plan.slot_offset = stages * s.tokens * plan.row_stride;
  plan.bytes = plan.slot_offset + s.slot_bytes;
  return plan;
}

}  // namespace dartquant::cuda
