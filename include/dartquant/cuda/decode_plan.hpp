// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>

#include <dartquant/core/platform.hpp>
#include <dartquant/cuda/grid.hpp>

#ifndef DQ_GRID
#define DQ_GRID 1
#endif
#ifndef DQ_PANELS
#define DQ_PANELS 2
#endif
#ifndef DQ_OVERLAP
#define DQ_OVERLAP true
#endif
#ifndef DQ_WARPS
#define DQ_WARPS 16
#define DQ_STAGES 8
#define DQ_BLOCKS 1
#endif
namespace dartquant::cuda {

/// What of a device decides how a product of few tokens is shared out.
struct DecodeDevice {
  int shared_bytes = 48 * 1024;  ///< of a block, at most (opt-in)
  int multiprocessors = 1;
};

/// What of a product does.
struct DecodeShape {
  int panels = 0;         ///< of 16 outputs
  int tiles = 0;          ///< of 64 channels, of a panel
  int tokens = 0;         ///< <= 16
  int x_bits = 0;         ///< 4, 8, 16
  int group_steps = 0;    ///< steps of 32 channels under one scale where the order of groups counts, else 0
  int panels_of_set = 1;  ///< that a block computes at a time
  int ring_bytes = 0;     ///< of shared memory for the weights that a warp has under way
  int slot_words = 0;     ///< of a slot of sums
  int slots = 0;          ///< that meet at a time, but those of groups
};

/// Who computes what. A block has 16 warps and takes every blocks-th set of panels. The tiles of a set are
/// shared out in rounds: in each, every warp has `chunk` consecutive tiles. Activations of `slice` rounds at
/// a time lie in shared memory: of all if they fit, else of two slices, one that is used and the next.
struct DecodePlan {
  static constexpr int warps = DQ_WARPS;
  int chunk = 1, rounds = 1, slice = 1;
  int group_slots = 1;  ///< slots that a chunk fills: two where a group ends inside a tile
  int pieces = 1;       ///< chunks that a group is cut into
  int slot_steps = 0;   ///< steps of 32 channels whose integers meet in one slot
  int row_stride = 0;   ///< bytes between rows of activations in shared memory
  int x_offset = 0, slot_offset = 0;
  int sets = 0, blocks = 0, bytes = 0;

  [[nodiscard]] DARTQUANT_HD constexpr int slices() const { return (rounds + slice - 1) / slice; }
  [[nodiscard]] DARTQUANT_HD constexpr int slice_bytes(int x_bits) const {
    return slice * warps * chunk * 8 * x_bits;
  }
  [[nodiscard]] Grid grid() const {
    return {.blocks_x = blocks, .shared_bytes = static_cast<std::size_t>(bytes)};
  }
};

/// The plan of a product, `bytes` greater than the device has if there is none: compute fewer tokens then.
[[nodiscard]] constexpr DecodePlan decode_plan(DecodeShape const& s, DecodeDevice const& device) {
  constexpr int warps = DecodePlan::warps;
  DecodePlan plan;
  plan.sets = (s.panels + s.panels_of_set - 1) / s.panels_of_set;
  plan.blocks = std::min(plan.sets, DQ_GRID * std::max(1, device.multiprocessors));
  plan.x_offset = warps * s.ring_bytes;
  bool const grouped = s.group_steps > 0;
  if (grouped) {
    plan.group_slots = s.group_steps % 2 == 0 ? 1 : 2;
    plan.chunk = s.group_steps * plan.group_slots / 2;
    if (plan.group_slots == 1)  // long groups: all warps shall have some of them
      while (plan.chunk / plan.pieces > 4 || plan.chunk % plan.pieces != 0) ++plan.pieces;
    plan.chunk /= plan.pieces;
    plan.slot_steps = 2 * plan.chunk / plan.group_slots;
  } else {
    plan.chunk = (s.tiles + warps - 1) / warps;
  }
  int const slot_bytes = 4 * s.slot_words * (s.slots > 0 ? s.slots : 2 * warps * plan.group_slots);
  int const left = device.shared_bytes - plan.x_offset - slot_bytes;
  int const pad = 4 * s.x_bits;  // rows start in banks that lanes read without conflicts
  auto const x_bytes = [&] { return s.tokens * (plan.slice_bytes(s.x_bits) + pad); };
  plan.rounds = plan.slice = (s.tiles + warps * plan.chunk - 1) / (warps * plan.chunk);
  int stages = 1;
  if (x_bytes() > left) {
    stages = 2;
    int const most = std::max(1, (left / 2 / s.tokens - pad) / (8 * s.x_bits * warps));  // tiles of a warp
    if (grouped) {
      plan.slice = std::max(1, most / plan.chunk);
    } else {
      plan.rounds = (plan.chunk + most - 1) / most;
      plan.chunk = (plan.chunk + plan.rounds - 1) / plan.rounds;
      plan.slice = 1;
    }
  }
  plan.row_stride = plan.slice_bytes(s.x_bits) + pad;
  plan.slot_offset = plan.x_offset + stages * s.tokens * plan.row_stride;
  plan.bytes = plan.slot_offset + slot_bytes;
  return plan;
}

}  // namespace dartquant::cuda
