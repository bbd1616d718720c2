// SPDX-License-Identifier: Apache-2.0
// A small engine that embeds the kernels: its own threads, its own arena, one decoder layer of a real
// checkpoint in W4A8 and W4A4 with online Hadamard rotations, compared with the same layer in float. Of a
// folder that `dartquant quantize --format native` wrote, the packed weights are multiplied from the mapped
// file.
//   engine MODEL_FOLDER [threads]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>

#include <dartquant/dartquant.hpp>

#include "layer.hpp"
#include "linear.hpp"
#include "native.hpp"

namespace {

using engine::Layer;
using engine::Linears;
using engine::Matrix;

/// The layer through the C API with activations of `bits`: relative error against `exact`, and the time of a
/// pass.
double measure(engine::Engine& engine, Layer const& layer, Matrix const& hidden, Matrix const& exact,
               std::int32_t bits) {
  std::size_t const start = engine.arena.mark();
  std::map<std::string, engine::Linear> packed;
  std::map<dartquant::index_t, engine::Rotation> rotations;
  for (auto const& [name, weight] : layer.weight) {
    Matrix W = weight;
    auto const& rotation = rotations.try_emplace(W.cols(), W.cols(), W.cols()).first->second;
    packed[name] =
        engine::load_linear(engine, rotation, W.data(), W.rows(), W.cols(), W.cols() % 32 == 0 ? 32 : 0);
  }
  std::size_t const weights_end = engine.arena.mark();
  Linears const linears = [&](Matrix& X, std::vector<std::string> const& names) {
    std::map<std::string, Matrix> Y;
    dartquant_quantized const q =
        engine::quantize(engine, rotations.at(X.cols()), X.data(), X.rows(), bits, dartquant_symmetric);
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
    result = engine::run_layer(layer, hidden, linears);
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
  int const threads = count > 2 ? std::atoi(arguments[2]) : 2;
  auto const model = dartquant::Model::open(arguments[1], dartquant::Weights::any);
  if (model.quantized() != nullptr) return engine::run_native(model, threads);
  Layer const layer = engine::read_layer(model);
  Matrix const hidden = model.checkpoint().read_matrix<float>("model.embed_tokens.weight").topRows(64);
  Matrix const exact =
      engine::run_layer(layer, hidden, [&](Matrix& X, std::vector<std::string> const& names) {
        std::map<std::string, Matrix> Y;
        for (std::string const& name : names) Y[name] = X * layer.weight.at(name).transpose();
        return Y;
      });
  engine::Engine engine(threads, std::size_t{64} << 20);
  double const error8 = measure(engine, layer, hidden, exact, 8),
               error4 = measure(engine, layer, hidden, exact, 4);
  return error8 < 0.3 && error8 < error4 && error4 < 0.5 ? 0 : 1;  // 4-bit weights are most of the error
} catch (std::exception const& error) {
  std::fprintf(stderr, "engine: %s\n", error.what());
  return 1;
}
