// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <dartquant/calibrate/sample.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

#include "model/weights.hpp"

namespace dartquant::detail {

/// The block of a chain on `channels`: the largest divisor up to `limit`, or for a Hadamard transform the
/// largest order that divides them.
[[nodiscard]] index_t block_of(SiteChain chain, index_t channels, index_t limit);

/// What a method could not do as asked on a model of these sizes, and what of its paper is left out.
[[nodiscard]] std::vector<std::string> transform_notes(MethodTraits const& method, ModelConfig const& config,
                                                       index_t block);

/// Finds the scales and transforms of one layer after another from a full-precision pass, gains folded and
/// nothing rotated: peaks over all tokens, a bounded sample of rows of the present layer.
class LayerTransformSearch {
 public:
  /// A pass over `tokens` tokens. All references must outlive this.
  LayerTransformSearch(Cpu const& cpu, Model const& model, index_t tokens, CaptureOptions const& capture);

  /// As an Observer. True when all inputs of `layer` have been seen: find may be called for it then.
  [[nodiscard]] bool observe(Site site, index_t layer, index_t first_token, MatrixView<float const> X);

  /// Adds the parts of the layer seen last to `result`. Precondition: the method has a chain or smooths.
  void find(ModelCalibrationOptions const& run, ModelCalibration& result) const;

 private:
  struct Input {
    ActivationSample sample;
    std::vector<double> peaks;
  };
  [[nodiscard]] LayerTransforms smoothing(double alpha) const;
  [[nodiscard]] std::vector<double> weight_peaks(Linear linear) const;
  [[nodiscard]] RowMatrix<double> smoothed(Site site, std::optional<DiagonalScale> const& scale) const;

  Cpu const& cpu_;
  Model const& model_;
  index_t tokens_;
  CaptureOptions const& capture_;
  FoldedWeights weights_;
  index_t layer_ = -1;
  std::map<Site, Input> inputs_;
};

}  // namespace dartquant::detail
