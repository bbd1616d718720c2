// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <dartquant/core/cpu.hpp>
#include <dartquant/model/architecture.hpp>
#include <dartquant/model/forward.hpp>

namespace dartquant {

/// The histogram of SiteStatistics: equal bins from -histogram_limit to histogram_limit.
inline constexpr int histogram_bins = 120;
inline constexpr double histogram_limit = 6;

/// The distribution of the activations of one site of one layer.
struct SiteStatistics {
  Site site;
  index_t layer = 0;
  double rms = 0, max = 0;  ///< over all values; max of |x|
  double kurtosis = 0;      ///< excess: m4 / m2^2 - 3
  double max_over_rms = 0;  ///< mean over tokens of max |x| / RMS
  double whip = 0;          ///< mean of exp(-|x| / RMS), per channel, tokens scaled to unit RMS
  /// Values of tokens scaled to unit RMS [histogram_bins + 2]: the first and the last count what lies
  /// outside the limits.
  std::vector<index_t> histogram{};
  /// RMS of each channel, tokens scaled to unit RMS [channels]: 1 everywhere where the energy is spread
  /// evenly, sqrt(channels) at a channel that holds all of it.
  std::vector<double> channel_rms{};
};

/// Statistics of every site of every layer over `windows`, in full precision, gains folded, with the
/// rotations of `options` (none by default). Exact over all tokens; one layer in memory at a time, and for
/// every layer a double per channel of each site.
[[nodiscard]] std::vector<SiteStatistics> inspect(Cpu const& cpu, Model const& model,
                                                  TokenWindows const& windows, ForwardOptions options = {});

}  // namespace dartquant
