// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <dartquant/calibrate/sample.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant::detail {

/// Finds the transforms of SiteChain::learned_blocks, once R1 and R2 are known. Those of the q_proj and
/// up_proj inputs come from the rows that R1 was learned on: a learned rotation per block. `rows` are
/// CentredSample::rows, `starts` its starts. Precondition: the transforms of the layers are in `result`.
void learn_input_blocks(Cpu const& cpu, Model const& model, MatrixView<float const> rows,
                        std::vector<index_t> const& starts, ModelCalibrationOptions const& run,
                        ModelCalibration& result);

/// The others, layer by layer from a full-precision pass of their own, gains folded and nothing rotated:
///
///   o_proj input     a Hadamard transform of all channels, then a learned rotation per block; after R2
///   down_proj input  likewise, in the place of R4
///   keys             one learned rotation of head_dim about their mean, in the place of R3
///
/// All inputs are learned on their own rows and on as many rows of the weights that read them as the run
/// says. Memory: a bounded sample of rows of each, of the present layer.
class LearnedBlocks {
 public:
  /// A pass over `tokens` tokens. All references must outlive this.
  LearnedBlocks(Cpu const& cpu, Model const& model, index_t tokens, CaptureOptions const& capture);

  /// As an Observer. True when all of `layer` has been seen: find may be called for it then.
  [[nodiscard]] bool observe(Site site, index_t layer, index_t first_token, MatrixView<float const> X);

  /// Sets the parts of the layer seen last in `result`.
  void find(ModelCalibrationOptions const& run, ModelCalibration& result) const;

 private:
  [[nodiscard]] RowMatrix<float> output_inputs(Rotations const& rotations) const;
  [[nodiscard]] RowMatrix<float> centred_keys() const;
  /// A Hadamard transform, then blocks learned on `X` and on rows of the weights.
  [[nodiscard]] Transform mixed_blocks(RowMatrix<float> const& X, Site site,
                                       ModelCalibrationOptions const& run, ModelCalibration& result) const;

  Cpu const& cpu_;
  Model const& model_;
  index_t tokens_, rows_;
  std::uint64_t seed_;
  index_t layer_ = -1;
  std::map<Site, ActivationSample> samples_;
};

}  // namespace dartquant::detail
