// SPDX-License-Identifier: Apache-2.0
// A small engine that embeds the kernels: its own threads, its own arena, one decoder layer of a real
// checkpoint in W4A8 and W4A4 with online Hadamard rotations, compared with the same layer in float.
//   engine MODEL_FOLDER [threads]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <string>

#include <dartquant/dartquant.hpp>

#include "linear.hpp"

namespace {

using Matrix = dartquant::RowMatrix<float>;

struct Layer {
  std::map<std::string, Matrix> weight;  ///< [out, in] by the name of the projection
  Matrix attention_gain, mlp_gain;       ///< [1, hidden]
  dartquant::index_t heads, kv_heads;
};

Layer read_layer(dartquant::Model const& model) {
  std::string const prefix = "model.layers.0.";
  auto const read = [&](std::string const& name) {
    return model.checkpoint().read_matrix<float>(prefix + name + ".weight");
  };
  Layer layer{{},
              read("input_layernorm"),
              read("post_attention_layernorm"),
              model.config().heads,
              model.config().kv_heads};
  for (char const* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
    layer.weight[name] = read(std::string("self_attn.") + name);
  for (char const* name : {"gate_proj", "up_proj", "down_proj"})
    layer.weight[name] = read(std::string("mlp.") + name);
  return layer;
}

Matrix rms_norm(Matrix const& X, Matrix const& gain) {
  Matrix Y = X;
  for (dartquant::index_t i = 0; i < X.rows(); ++i)
    Y.row(i) *= 1.0f / std::sqrt(X.row(i).squaredNorm() / static_cast<float>(X.cols()) + 1e-5f);
  return Y.array().rowwise() * Eigen::Map<Eigen::RowVectorXf const>(gain.data(), X.cols()).array();
}

/// Computes the maps named in `names` on the same input X: Y of each.
using Linears =
    std::function<std::map<std::string, Matrix>(Matrix& X, std::vector<std::string> const& names)>;

/// One decoder layer on tokens that see only themselves, so that attention returns the value of each head.
Matrix run_layer(Layer const& layer, Matrix hidden, Linears const& linears) {
  Matrix X = rms_norm(hidden, layer.attention_gain);
  Matrix const V = linears(X, {"q_proj", "k_proj", "v_proj"}).at("v_proj");
  dartquant::index_t const head_dim = V.cols() / layer.kv_heads, share = layer.heads / layer.kv_heads;
  Matrix mixed(hidden.rows(), layer.heads * head_dim);
  for (dartquant::index_t head = 0; head < layer.heads; ++head)
    mixed.middleCols(head * head_dim, head_dim) = V.middleCols(head / share * head_dim, head_dim);
  hidden += linears(mixed, {"o_proj"}).at("o_proj");
  X = rms_norm(hidden, layer.mlp_gain);
  auto const gated = linears(X, {"gate_proj", "up_proj"});
  Matrix const& gate = gated.at("gate_proj");
  Matrix product = gate.array() / (1.0f + (-gate.array()).exp()) * gated.at("up_proj").array();
  hidden += linears(product, {"down_proj"}).at("down_proj");
  return hidden;
}

/// The layer through the C API with activations of `bits`: relative error against `exact`, and the time of a
/// pass.
double measure(engine::Engine& engine, Layer const& layer, Matrix const& hidden, Matrix const& exact,
               std::int32_t bits) {
  std::size_t const start = engine.arena.mark();
  std::map<std::string, engine::Linear> packed;
  std::map<dartquant::index_t, engine::Rotation> rotations;
  for (auto const& [name, weight] : layer.weight) {
    Matrix W = weight;
    auto const& rotation = rotations.try_emplace(W.cols(), W.cols()).first->second;
    packed[name] =
        engine::load_linear(engine, rotation, W.data(), W.rows(), W.cols(), W.cols() % 32 == 0 ? 32 : 0);
  }
  std::size_t const weights_end = engine.arena.mark();
  Linears const linears = [&](Matrix& X, std::vector<std::string> const& names) {
    std::map<std::string, Matrix> Y;
    dartquant_quantized const q = engine::quantize(engine, rotations.at(X.cols()), X.data(), X.rows(), bits);
    for (std::string const& name : names) {
      Y[name].resize(X.rows(), packed.at(name).shape.out);
      engine::multiply(engine, packed.at(name), q, Y[name].data());
    }
    engine.arena.release(weights_end);
    return Y;
  };
  Matrix result;
  double fastest = 1e9;
  for (int pass = 0; pass < 10; ++pass) {
    auto const begin = std::chrono::steady_clock::now();
    result = run_layer(layer, hidden, linears);
    fastest =
        std::min(fastest, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  double const error = static_cast<double>((result - exact).norm() / (exact - hidden).norm());
  std::printf(
      "W4A%d  %s, %d threads: relative error of the layer's update %.4f, %.2f us per token, weights %zu "
      "bytes\n",
      bits, dartquant_isa_name(static_cast<dartquant_isa>(engine.cpu.chosen)), engine.workers.count(), error,
      1e6 * fastest / static_cast<double>(hidden.rows()), weights_end - start);
  engine.arena.release(start);
  return error;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count < 2) {
    std::fprintf(stderr, "usage: engine MODEL_FOLDER [threads]\n");
    return 2;
  }
  auto const model = dartquant::Model::open(arguments[1]);
  Layer const layer = read_layer(model);
  Matrix const hidden = model.checkpoint().read_matrix<float>("model.embed_tokens.weight").topRows(64);
  Matrix const exact = run_layer(layer, hidden, [&](Matrix& X, std::vector<std::string> const& names) {
    std::map<std::string, Matrix> Y;
    for (std::string const& name : names) Y[name] = X * layer.weight.at(name).transpose();
    return Y;
  });
  engine::Engine engine(count > 2 ? std::atoi(arguments[2]) : 2, std::size_t{64} << 20);
  double const error8 = measure(engine, layer, hidden, exact, 8),
               error4 = measure(engine, layer, hidden, exact, 4);
  return error8 < 0.3 && error8 < error4 && error4 < 0.5 ? 0 : 1;  // 4-bit weights are most of the error
} catch (std::exception const& error) {
  std::fprintf(stderr, "engine: %s\n", error.what());
  return 1;
}
