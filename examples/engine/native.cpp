// SPDX-License-Identifier: Apache-2.0
#include "native.hpp"

#include <cstdint>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <dartquant/model/quantized_folder.hpp>

#include "layer.hpp"
#include "linear.hpp"

namespace engine {
namespace {

using dartquant::index_t;

/// Packed weights where they lie in the mapped file: nothing is copied.
Linear mapped_linear(dartquant::Model const& model, std::string const& name, index_t out, index_t in) {
  dartquant::FolderQuantization const& folder = *model.quantized();
  index_t const group = folder.quantization.weight_group;
  bool const symmetric = folder.quantization.weight_symmetry == dartquant::Symmetry::symmetric;
  dartquant::Tensor const& tensor = model.checkpoint().tensor(tensor_of(name) + "weight_int4");
  return {
      {out, in, group >= in ? 0 : group, symmetric ? dartquant_symmetric : dartquant_asymmetric, folder.sums},
      tensor.bytes.data(),
      tensor.bytes.size()};
}

std::map<std::string, Linear> mapped_linears(dartquant::Model const& model) {
  dartquant::ModelConfig const& c = model.config();
  std::map<std::string, std::pair<index_t, index_t>> const shapes{
      {"q_proj", {c.query_channels(), c.hidden}}, {"k_proj", {c.kv_channels(), c.hidden}},
      {"v_proj", {c.kv_channels(), c.hidden}},    {"o_proj", {c.hidden, c.query_channels()}},
      {"gate_proj", {c.intermediate, c.hidden}},  {"up_proj", {c.intermediate, c.hidden}},
      {"down_proj", {c.hidden, c.intermediate}}};
  std::map<std::string, Linear> linears;
  for (auto const& [name, shape] : shapes)
    linears[name] = mapped_linear(model, name, shape.first, shape.second);
  return linears;
}

/// R4 of the first layer; no rotation where there is none.
Rotation down_rotation(dartquant::Model const& model) {
  index_t const channels = model.config().intermediate;
  auto const& layers = model.quantized()->transforms.layers;
  if (layers.empty()) return Rotation(channels, 0);
  dartquant::LayerTransforms const& layer = layers.front();
  if (layer.q_proj_input || layer.o_proj_input || layer.up_proj_input || !layer.attention_shift.empty() ||
      !layer.mlp_shift.empty())
    throw std::runtime_error("this example runs R4 alone online: use a folder of such a method");
  if (!layer.down_proj_input) return Rotation(channels, 0);
  auto const& steps = layer.down_proj_input->steps();
  if (steps.size() != 1 || !std::holds_alternative<dartquant::Hadamard>(steps.front()))
    throw std::runtime_error("the transform of the down_proj input is more than R4");
  return Rotation(channels, std::get<dartquant::Hadamard>(steps.front()).block());
}

}  // namespace

int run_native(dartquant::Model const& model, int threads) {
  dartquant::FolderQuantization const& folder = *model.quantized();
  if (folder.format != dartquant::FolderFormat::native)
    throw std::runtime_error("the packed weights are not in the native format");
  Layer const layer = read_layer(model);
  std::map<std::string, Linear> const linears = mapped_linears(model);
  Rotation const down = down_rotation(model);
  Engine engine(threads, std::size_t{64} << 20);
  std::size_t const start = engine.arena.mark();
  int const scheme_bits = folder.quantization.scheme.activations, bits = scheme_bits <= 4 ? 4 : 8;
  bool const symmetric = folder.quantization.activation_symmetry == dartquant::Symmetry::symmetric;
  auto const run = [&](Matrix const& hidden, bool rounded) {
    return run_layer(layer, hidden, [&](Matrix& X, std::vector<std::string> const& names) {
      Rotation const none(X.cols(), 0);
      Rotation const& rotation = names.front() == "down_proj" ? down : none;
      std::map<std::string, Matrix> Y;
      dartquant_quantized q{};
      if (rounded)
        q = quantize(engine, rotation, X.data(), X.rows(), bits,
                     symmetric ? dartquant_symmetric : dartquant_asymmetric);
      else rotate(engine, rotation, X.data(), X.rows());
      for (std::string const& name : names) {
        Linear const& linear = linears.at(name);
        Y[name].resize(X.rows(), linear.shape.out);
        if (rounded) multiply(engine, linear, q, Y[name].data());
        else multiply_float(engine, linear, X.data(), X.rows(), Y[name].data());
      }
      engine.arena.release(start);
      return Y;
    });
  };
  Matrix const hidden = model.checkpoint().read_matrix<float>("model.embed_tokens.weight").topRows(64);
  Matrix const exact = run(hidden, false), found = run(hidden, true);
  double const error = static_cast<double>((found - exact).norm() / (exact - hidden).norm());
  std::printf(
      "native folder, W4A%d, %s, %d threads: weights multiplied from the mapped file; rounding activations "
      "changes the layer's update by %.4f\n",
      bits, dartquant_isa_name(static_cast<dartquant_isa>(engine.cpu.chosen)), engine.workers.count(), error);
  return error > 0 && error < (bits == 8 ? 0.1 : 0.5) ? 0 : 1;
}

}  // namespace engine
