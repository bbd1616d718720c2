// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <string>
#include <string_view>

#include <dartquant/model/quantization_errors.hpp>

#include "summary.hpp"

namespace dartquant::program {

/// The values of a site, all layers together, tokens at unit RMS, beside the densities of a Gaussian and of a
/// uniform distribution of the same RMS.
[[nodiscard]] std::string histogram_chart(Portrait const& portrait, Site site);

/// Layers against blocks of channels: how far the loudest channel of each block stands out (RMS, 1 is even).
/// Colours are those of `loudest`, which becomes the brightest.
[[nodiscard]] std::string channel_map(Portrait const& portrait, Site site, double loudest);
/// The largest channel RMS of a site.
[[nodiscard]] double loudest_channel(Portrait const& portrait, Site site);

/// Methods against sites and weights: relative errors, mean over layers.
[[nodiscard]] std::string error_map(SchemeSummary const& scheme);

/// The smallest and the largest error above 0, for colours that several pictures share.
struct ErrorRange {
  double least = std::numeric_limits<double>::infinity(), most = 0;

  void include(double error);
  void include(QuantizationErrors const& errors);
};

/// Layers against sites and weights of one method.
[[nodiscard]] std::string layer_error_map(QuantizationErrors const& errors, ErrorRange const& range);

}  // namespace dartquant::program
