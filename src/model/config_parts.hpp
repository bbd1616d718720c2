// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include <dartquant/core/error.hpp>
#include <dartquant/model/architecture.hpp>

#include "io/json.hpp"

// The parts of a config.json that not every family has. Private to parse_config.
namespace dartquant::detail {

/// A size: a whole number in [1, 2^24], or up to 2^31 - 1 for the vocabulary. Products of two stay below
/// 2^63.
[[nodiscard]] inline index_t size_member(Json const& config, std::string_view key, std::string const& name,
                                         std::int64_t largest = std::int64_t{1} << 24) {
  return to_integer(member(config, key, name), key, name, 1, largest);
}

/// A number above 0.
[[nodiscard]] inline double positive_member(Json const& object, std::string_view key,
                                            std::string const& name) {
  double const value = get<double>(object, key, name);
  if (!(value > 0) || !std::isfinite(value))
    fail(Error::Kind::format, name, ": '", key, "' is ", value, "; a number above 0 is needed");
  return value;
}

/// `rope_theta` and `rope_scaling`, or both inside `rope_parameters` as newer files have it, there perhaps
/// once for each kind of layer.
void read_rope(Json const& config, std::string const& name, ConfigForm const& form, ModelConfig& result);

/// `sliding_window` and which layers it is for.
void read_windows(Json const& config, std::string const& name, ConfigForm const& form, ModelConfig& result);

/// Experts: how many, how wide, in which layers.
void read_mixture(Json const& config, std::string const& name, Family const& family, ModelConfig& result);

}  // namespace dartquant::detail
