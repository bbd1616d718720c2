// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/quantization_errors.hpp>

#include <array>
#include <limits>

#include <dartquant/quant/fake_quantize.hpp>
#include <dartquant/quant/quantization_error.hpp>

#include "model/head.hpp"
#include "model/rounded_layers.hpp"

namespace dartquant {
namespace {

struct Sums {
  double noise = 0, power = 0;

  [[nodiscard]] double relative() const {
    if (noise == 0) return 0;
    return power > 0 ? noise / power : std::numeric_limits<double>::infinity();
  }
};

std::vector<SiteError> site_errors(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                   ForwardOptions options) {
  std::vector<Sums> sums(static_cast<std::size_t>(model.config().layers) * site_count);
  auto const place = [](Site site, index_t layer) {
    return static_cast<std::size_t>(layer) * site_count + static_cast<std::size_t>(site);
  };
  options.observer = [&](Site site, index_t layer, index_t, MatrixView<float const> X) {
    auto const quantizer = options.quantization.at(site, model.config().head_dim);
    if (!quantizer) return;
    RowMatrix<float> rounded = as_eigen(X);
    fake_quantize(cpu, rounded, *quantizer);
    Sums& sum = sums[place(site, layer)];
    double const power = detail::sum_entries(cpu, X.rows(), X.cols(), [&](index_t i, index_t j) {
      return static_cast<double>(X(i, j)) * X(i, j);
    });
    sum.power += power;
    if (power > 0) sum.noise += power * quantization_error(cpu, X, rounded);
  };
  static_cast<void>(hidden_states(cpu, model, windows, options));
  std::vector<SiteError> result;
  for (index_t layer = 0; layer < model.config().layers; ++layer)
    for (std::size_t site = 0; site < site_count; ++site)
      result.push_back(
          {static_cast<Site>(site), layer, sums[place(static_cast<Site>(site), layer)].relative()});
  return result;
}

std::vector<WeightError> weight_errors(Cpu const& cpu, Model const& model, ForwardOptions const& options) {
  detail::FoldedWeights const folded(cpu, model, options.rotations, options.active,
                                     detail::gains_of(options));
  ForwardOptions plain = options, as_values = options;
  plain.quantization = {};
  as_values.observer = {};
  as_values.quantization.arithmetic = Arithmetic::floating_point;  // the same levels, as values
  detail::RoundedLayers exact_layers(cpu, folded, plain), rounded_layers(cpu, folded, as_values);
  std::vector<WeightError> result;
  for (index_t layer = 0; layer < model.config().layers; ++layer) {
    detail::LayerWeights const exact = exact_layers.next(), rounded = rounded_layers.next();
    detail::release_pages(model.checkpoint());
    std::array<Sums, linear_count> sums{};  // over the experts
    for (std::size_t i = 0; i < exact.linears.size(); ++i) {
      if (!exact.linears[i].quantized()) continue;
      RowMatrix<float> const& W = exact.maps[i].weight;
      double const power = W.cast<double>().squaredNorm();
      Sums& sum = sums[static_cast<std::size_t>(exact.linears[i].linear)];
      sum.power += power;
      if (power > 0) sum.noise += power * quantization_error(cpu, W, rounded.maps[i].weight);
    }
    for (std::size_t linear = 0; linear < linear_count; ++linear)
      result.push_back({static_cast<Linear>(linear), layer, sums[linear].relative()});
  }
  return result;
}

}  // namespace

QuantizationErrors quantization_errors(Cpu const& cpu, Model const& model, TokenWindows const& windows,
                                       ForwardOptions const& options) {
  return {site_errors(cpu, model, windows, options), weight_errors(cpu, model, options)};
}

std::string_view name_of(Linear linear) {
  switch (linear) {
    case Linear::q_proj:
      return "q_proj";
    case Linear::k_proj:
      return "k_proj";
    case Linear::v_proj:
      return "v_proj";
    case Linear::o_proj:
      return "o_proj";
    case Linear::gate_proj:
      return "gate_proj";
    case Linear::up_proj:
      return "up_proj";
    case Linear::down_proj:
      return "down_proj";
    case Linear::router:
      return "router";
    case Linear::shared_gate:
      return "shared_gate";
  }
  return "";
}

}  // namespace dartquant
