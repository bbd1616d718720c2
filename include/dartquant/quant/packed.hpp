// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <dartquant/core/aligned_bytes.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/core/error.hpp>
#include <dartquant/quant/int_matrix.hpp>

namespace dartquant {
namespace detail {

/// The channels that share a scale in a product of X and W, whose scales hold for width_x and width_w
/// channels of a row: the smaller of both, where it divides the larger and packed weights can have it.
[[nodiscard]] inline std::optional<index_t> product_group(index_t channels, index_t width_x,
                                                          index_t width_w) {
  index_t const x = std::min(width_x, channels), w = std::min(width_w, channels);
  index_t const small = std::min(x, w), large = std::max(x, w);
  bool const divides = large == channels || large % small == 0;
  if (small < channels && (small % 8 != 0 || !divides)) return std::nullopt;
  return small;
}

/// A quantized matrix with a scale for every `width` channels of every row: coarser scales are repeated.
/// Precondition: product_group gives `width` for the block of Q, and Q is not empty.
class FineScales {
 public:
  template <int StorageBits>
  FineScales(IntMatrix<StorageBits> const& Q, index_t width) : described_(c_quantized(Q, 0, Q.rows())) {
    described_.group = width;
    index_t const groups = (Q.cols() + width - 1) / width;
    if (Q.scales().rows() == Q.rows() && Q.scales().cols() == groups) return;
    for (index_t i = 0; i < Q.rows(); ++i)
      for (index_t j = 0; j < Q.cols(); j += width) {
        scales_.push_back(Q.scale(i, j));
        zero_points_.push_back(Q.zero_point(i, j));
      }
    described_.scales = scales_.data();
    if (described_.zero_points != nullptr) described_.zero_points = zero_points_.data();
    described_.scale_stride = described_.zero_point_stride = groups;
  }
  FineScales(FineScales const&) = delete;
  FineScales& operator=(FineScales const&) = delete;

  /// Valid as long as Q and this.
  [[nodiscard]] dartquant_quantized const& described() const { return described_; }

 private:
  std::vector<float> scales_;
  std::vector<std::int32_t> zero_points_;
  dartquant_quantized described_;
};

/// Errors: InvalidArgument where the Cpu has no kernels.
[[nodiscard]] inline CpuKernels const& required_kernels(Cpu const& cpu, char const* function) {
  require(cpu.kernels() != nullptr, "[", function,
          "] packed weights need compiled kernels, and this Cpu has none: use "
          "Cpu(threads).with_kernels(compiled_kernels())");
  return *cpu.kernels();
}

}  // namespace detail

/// How weights are packed.
struct PackOptions {
  index_t group = 0;  ///< channels under one packed scale, a divisor of W's; 0: as W
  bool sums = true;   ///< also sums of levels, 4 bytes per scale: asymmetric 8-bit activations need them
};

/// 4-bit weights [out, in] in the compute layout of docs/int4_format.md, laid out once and multiplied often:
///   PackedInt4 const packed = pack(cpu, quantize(cpu, W, {.granularity = per_group(128)}));
///   RowMatrix<float> const Y = matmul(cpu, X4, packed);
/// Never changes; copies share the bytes.
class PackedInt4 {
 public:
  PackedInt4() = default;
  /// Takes bytes that dartquant_pack wrote for `shape`.
  PackedInt4(dartquant_weights const& shape, AlignedBytes bytes)
      : shape_(shape), bytes_(std::make_shared<AlignedBytes const>(std::move(bytes))) {}

  [[nodiscard]] index_t rows() const { return shape_.out; }
  [[nodiscard]] index_t cols() const { return shape_.in; }
  /// Channels under one scale.
  [[nodiscard]] index_t group() const { return shape_.group == 0 ? shape_.in : shape_.group; }
  /// For the calls of kernels.h.
  [[nodiscard]] dartquant_weights const& shape() const { return shape_; }
  [[nodiscard]] void const* data() const { return bytes_ == nullptr ? nullptr : bytes_->data(); }
  [[nodiscard]] std::size_t bytes() const { return bytes_ == nullptr ? 0 : bytes_->size(); }

 private:
  dartquant_weights shape_{};
  std::shared_ptr<AlignedBytes const> bytes_;
};

/// Packs W [out, in] with compiled kernels. Scales of a tensor are repeated, those of columns have no packed
/// form. Errors: InvalidArgument for an empty W, a Cpu without kernels, or groups that are neither whole rows
/// nor a multiple of 8 channels that divides W's own. Cost: one pass over W, outputs in parallel.
[[nodiscard]] inline PackedInt4 pack(Cpu const& cpu, Int4Matrix const& W, PackOptions const& options = {}) {
  CpuKernels const& kernels = detail::required_kernels(cpu, "pack");
  detail::require(W.rows() > 0 && W.cols() > 0, "[pack] weights of ", W.rows(), " x ", W.cols(),
                  ": at least one output and one input are needed");
  detail::require(W.block().rows == 1 || W.block().cols == W.cols(),
                  "[pack] one scale per column has no packed form: quantize per row or per group");
  index_t const wanted = options.group == 0 ? W.block().cols : options.group;
  auto const group = detail::product_group(W.cols(), wanted, W.block().cols);
  detail::require(group && *group == std::min(wanted, W.cols()), "[pack] groups of ", wanted,
                  " channels from scales of ", W.block().cols,
                  ": packed groups are whole rows, or a multiple of 8 that divides the weights' own");
  dartquant_weights const shape{
      W.rows(), W.cols(), *group == W.cols() ? 0 : *group,
      W.symmetry() == Symmetry::symmetric ? dartquant_symmetric : dartquant_asymmetric, options.sums ? 1 : 0};
  std::size_t bytes = 0;
  detail::require_done(kernels, "pack", kernels.packed_size(&shape, &bytes));
  AlignedBytes packed(bytes);
  detail::FineScales const q(W, *group);
  index_t const parts = cpu.threads();
  cpu.parallel_for(parts, 1, [&](index_t part, index_t) {
    detail::require_done(kernels, "pack",
                         kernels.pack(&shape, &q.described(), packed.data(), bytes, part, parts));
  });
  return {shape, std::move(packed)};
}

}  // namespace dartquant
