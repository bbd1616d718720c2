// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include <dartquant/core/error.hpp>
#include <dartquant/model/rotations.hpp>
#include <dartquant/transform/rotation.hpp>

#include "model/layer_parts.hpp"
#include "model/layout.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::require;
using detail::sentence;
using Kind = Error::Kind;

void check_orthonormal(MatrixView<double const> R, std::string const& name) {
  double const ratio = orthogonality_ratio(R);
  if (!(ratio < 30))
    fail(Kind::numerics, "[Rotations] ", name, " has |I - R^T R|_1 / (n eps) = ", ratio,
         "; a rotation must stay below 30");
}

void check_size(RowMatrix<double> const& R, index_t wanted, std::string const& name) {
  require(R.rows() == wanted && R.cols() == wanted, "[Rotations] ", name, " is ", R.rows(), " x ", R.cols(),
          ", but the model needs ", wanted, " x ", wanted);
}

void check_layer(LayerTransforms const& layer, std::size_t index, ModelConfig const& config) {
  auto const check = [&](std::string_view part, index_t channels, index_t wanted) {
    require(channels == wanted, "[Rotations] ", part, " of layer ", index, " is for ", channels,
            " channels, but the model needs ", wanted);
  };
  for (detail::ScalePart const& part : detail::scale_parts)
    if (auto const& scale = layer.*part.scale)
      check(part.name, scale->channels(), detail::extent_of(config, part.channels));
  for (detail::ShiftPart const& part : detail::shift_parts) {
    std::vector<double> const& shift = layer.*part.shift;
    if (shift.empty()) continue;
    check(part.name, static_cast<index_t>(shift.size()), detail::extent_of(config, part.channels));
    auto const bad = std::ranges::find_if_not(shift, [](double value) { return std::isfinite(value); });
    require(bad == shift.end(), "[Rotations] ", part.name, " of layer ", index, " is not finite in channel ",
            bad - shift.begin());
  }
  require(layer.key_shift.empty() || config.attention_cap == 0, "[Rotations] key_shift of layer ", index,
          ": the scores of ", config.architecture, " are capped, so that a shift of the keys changes them");
  for (detail::InputPart const& part : detail::input_parts)
    if (auto const& transform = layer.*part.transform)
      check(part.name, transform->channels(), detail::extent_of(config, part.channels));
  if (layer.key_rotation) check("key_rotation", layer.key_rotation->channels(), config.head_dim);
}

}  // namespace

bool LayerTransforms::online() const {
  return key_rotation || std::ranges::any_of(detail::input_parts, [&](detail::InputPart const& part) {
           return detail::has_steps(this->*part.transform);
         });
}

void Rotations::validate(ModelConfig const& config) const {
  if (r1.size() != 0) {
    check_size(r1, config.hidden, "R1");
    check_orthonormal(r1, "R1");
  }
  require(r2.empty() || static_cast<index_t>(r2.size()) == config.layers, "[Rotations] R2 of ", r2.size(),
          " layers, but the model has ", config.layers);
  for (std::size_t layer = 0; layer < r2.size(); ++layer) {
    require(static_cast<index_t>(r2[layer].size()) == config.kv_heads, "[Rotations] R2 of ", r2[layer].size(),
            " KV heads in layer ", layer, ", but the model has ", config.kv_heads);
    for (std::size_t head = 0; head < r2[layer].size(); ++head) {
      std::string const name = sentence("R2 of layer ", layer, ", KV head ", head);
      check_size(r2[layer][head], config.head_dim, name);
      check_orthonormal(r2[layer][head], name);
    }
  }
  require(layers.empty() || static_cast<index_t>(layers.size()) == config.layers,
          "[Rotations] transforms of ", layers.size(), " layers, but the model has ", config.layers);
  for (std::size_t layer = 0; layer < layers.size(); ++layer) check_layer(layers[layer], layer, config);
}

Rotations without_shifts(Rotations rotations) {
  for (LayerTransforms& layer : rotations.layers)
    for (detail::ShiftPart const& part : detail::shift_parts) (layer.*part.shift).clear();
  return rotations;
}

double Rotations::r1_orthogonality() const { return r1.size() == 0 ? 0 : orthogonality_ratio(r1); }

double Rotations::r2_orthogonality() const {
  double largest = 0;
  for (auto const& layer : r2)
    for (RowMatrix<double> const& R : layer) largest = std::max(largest, orthogonality_ratio(R));
  return largest;
}

}  // namespace dartquant
