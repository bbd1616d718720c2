// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
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

/// Layers against sites and weights of one method.
[[nodiscard]] std::string layer_error_map(QuantizationErrors const& errors);

}  // namespace dartquant::program
