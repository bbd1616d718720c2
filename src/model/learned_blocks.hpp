// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <dartquant/calibrate/sample.hpp>
#include <dartquant/core/cpu.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant::detail {

/// Finds the transforms of SiteChain::learned_blocks that do not depend on R1, layer by layer from a
/// full-precision pass, gains folded and nothing rotated:
///
///   o_proj input     a Hadamard transform of all channels, then a learned rotation per block; after R2
///   down_proj input  likewise, in the place of R4
///   keys             one learned rotation of head_dim about their mean, in the place of R3
///
/// Memory: a bounded sample of rows of each, of the present layer.
class LearnedBlocks {
 public:
  /// A pass over `tokens` tokens. All references must outlive this.
  LearnedBlocks(Cpu const& cpu, ModelConfig const& config, index_t tokens, CaptureOptions const& capture);

  /// As an Observer. True when all of `layer` has been seen: find may be called for it then.
  [[nodiscard]] bool observe(Site site, index_t layer, index_t first_token, MatrixView<float const> X);

  /// Adds the parts of the layer seen last to `result`, whose R2 of that layer are used where it has any.
  void find(ModelCalibrationOptions const& run, ModelCalibration& result) const;

 private:
  [[nodiscard]] RowMatrix<float> output_inputs(Rotations const& rotations) const;
  [[nodiscard]] RowMatrix<float> centred_keys() const;

  Cpu const& cpu_;
  ModelConfig const& config_;
  index_t tokens_, rows_;
  std::uint64_t seed_;
  index_t layer_ = -1;
  std::map<Site, ActivationSample> samples_;
};

/// Those that do: a learned rotation per block of the q_proj and up_proj inputs of every layer, on the rows
/// of that input and on as many rows of the weights that read it as the run says. `rows` are
/// CentredSample::rows, `starts` its starts. Precondition: the transforms of the layers are in `result`.
void learn_input_blocks(Cpu const& cpu, Model const& model, MatrixView<float const> rows,
                        std::vector<index_t> const& starts, ModelCalibrationOptions const& run,
                        ModelCalibration& result);

}  // namespace dartquant::detail
