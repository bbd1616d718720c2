// SPDX-License-Identifier: Apache-2.0
// The forward pass on the products of levels, beside the one on rounded floats.
#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/model/pipeline.hpp>

#include <algorithm>
#include <cmath>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

ForwardOptions on_scheme(char const* scheme, Arithmetic arithmetic) {
  ForwardOptions options;
  options.quantization.scheme = Scheme::parse(scheme);
  options.quantization.arithmetic = arithmetic;
  return options;
}

/// Mean difference of the negative log-likelihood per window, its standard error, and the share of windows
/// that agree to 1e-5: a difference in the last bit may round one value to the next level, and all that
/// follows in its window with it.
struct Agreement {
  double mean = 0, standard_error = 0, same = 0;
};

Agreement compare(std::vector<double> const& a, std::vector<double> const& b) {
  Agreement found;
  auto const count = static_cast<double>(a.size());
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    found.mean += (b[i] - a[i]) / count;
    squares += (b[i] - a[i]) * (b[i] - a[i]);
    found.same += std::abs(b[i] - a[i]) < 1e-5 ? 1 / count : 0;
  }
  found.standard_error = std::sqrt(squares) / count;
  return found;
}

/// Tokens whose logits agree to 1e-5 of the largest. Not all do: o_proj reads rounded values of the KV cache,
/// which lie exactly between two levels again and again, and the last bit decides.
double share_of_equal_rows(RowMatrix<float> const& a, RowMatrix<float> const& b) {
  index_t equal = 0;
  for (index_t i = 0; i < a.rows(); ++i) equal += relative_difference(a.row(i), b.row(i)) < 1e-5 ? 1 : 0;
  return static_cast<double>(equal) / static_cast<double>(a.rows());
}

}  // namespace

TEST_CASE("integer products give the logits of fake quantization", "[integers]") {
  TemporaryFolder const folder;
  Model const model = Model::open(
      write_synthetic(folder / "m", {.intermediate = 48, .attention_bias = true, .mlp_bias = true}));
  TokenWindows const tokens = some_tokens(6, 6, 64);
  Cpu const cpu(1);
  for (char const* const scheme : {"w4a4kv4", "w4a8kv8", "w3a5kv3", "w2a3"})
    for (auto const symmetry : {Symmetry::symmetric, Symmetry::asymmetric})
      for (index_t const group : {0, 8, 16})
        for (auto const output :
             {Quantization::OutputInput::per_token, Quantization::OutputInput::per_head}) {
          INFO(scheme << ", groups of " << group);
          ForwardOptions fake = on_scheme(scheme, Arithmetic::floating_point);
          fake.quantization.activation_symmetry = symmetry;
          fake.quantization.weight_group = group;
          fake.quantization.weight_clip = ClipSearch::none;
          fake.quantization.o_proj_input = output;
          fake.active.r4 = true;
          ForwardOptions integer = fake;
          integer.quantization.arithmetic = Arithmetic::integer;
          CHECK(share_of_equal_rows(logits(cpu, model, tokens, integer), logits(cpu, model, tokens, fake)) >
                0.5);
        }
}

TEST_CASE("integer products multiply the levels that GPTQ and learned clipping chose",
          "[integers][rounding]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(6, 6, 64), text = some_tokens(8, 16, 64, 5);
  Cpu const cpu(1);
  for (auto const rounding : {WeightRounding::gptq, WeightRounding::learned_clip})
    for (auto const symmetry : {Symmetry::symmetric, Symmetry::asymmetric}) {
      ForwardOptions fake = on_scheme("w4a8kv8", Arithmetic::floating_point);
      fake.quantization.weight_rounding = rounding;
      fake.quantization.weight_symmetry = symmetry;
      fake.quantization.weight_group = 16;
      fake.hessian_windows = &text;
      ForwardOptions integer = fake;
      integer.quantization.arithmetic = Arithmetic::integer;
      CHECK(share_of_equal_rows(logits(cpu, model, tokens, integer), logits(cpu, model, tokens, fake)) > 0.5);
    }
}

TEST_CASE("kernels on rows change no byte of fake quantization, instruction sets none of integer products",
          "[integers]") {
  (void)dartquant_amx_request();
  RealModel const tiny = real_models().front();
  Model const model = Model::open(tiny.folder);
  TokenWindows const windows = tiny.windows(2);
  ForwardOptions fake = on_scheme("w4a4kv4", Arithmetic::floating_point),
                 integer = on_scheme("w4a8kv8", Arithmetic::integer);
  fake.quantization.weight_clip = integer.quantization.weight_clip = ClipSearch::none;
  fake.active.r3 = fake.active.r4 = integer.active.r3 = integer.active.r4 = true;
  RowMatrix<float> const plain = hidden_states(Cpu(1), model, windows, fake);
  RowMatrix<float> const first = hidden_states(Cpu(1), model, windows, integer);  // the best instruction set
  RowMatrix<float> multiplied;
  for (dartquant_isa const isa : available_isas()) {
    INFO(dartquant_isa_name(isa));
    CpuKernels kernels = compiled_kernels(isa);
    REQUIRE(hidden_states(Cpu(3).with_kernels(kernels), model, windows, integer) == first);
    if (kernels.tiles != nullptr) {  // float products: the same bytes on every such instruction set
      RowMatrix<float> const found = hidden_states(Cpu(3).with_kernels(kernels), model, windows, fake);
      if (multiplied.size() == 0) multiplied = found;
      REQUIRE(found == multiplied);
    }
    kernels.tiles = nullptr;  // else float products are Eigen's
    REQUIRE(hidden_states(Cpu(3).with_kernels(kernels), model, windows, fake) == plain);
  }
}

TEST_CASE("on real models integer W4A4 and fake quantization agree", "[integers][real]") {
  Cpu const cpu(2);
  for (RealModel const& real : real_models()) {
    Model const model = Model::open(real.folder);
    TokenWindows const windows = real.windows(16);
    ModelCalibration const quarot = calibrate(cpu, model, windows.topRows(1), {.method = Method::quarot});
    Quantization quantization = on_scheme("w4a4", Arithmetic::floating_point).quantization;
    quantization.weight_clip = ClipSearch::none;
    ForwardOptions options = forward_options(quarot, {.r1 = true, .r2 = true, .r4 = true}, quantization);
    Evaluation const fake = evaluate(cpu, model, windows, options);
    options.quantization.arithmetic = Arithmetic::integer;
    Evaluation const integer = evaluate(cpu, model, windows, options);
    Agreement const found = compare(fake.window_nll, integer.window_nll);
    INFO(real.name << ": mean " << found.mean << ", same " << found.same);
    CHECK(std::abs(found.mean) < 1e-3 + 3 * found.standard_error);
    CHECK(found.same > 0.25);
  }
}

TEST_CASE("what has no integer product is refused with a sentence", "[integers][error]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(1, 4, 64);
  Cpu const cpu(1);
  for (char const* const scheme : {"w16a4", "w4a16", "w8a8", "w5a4kv4"})
    CHECK_THROWS_WITH(
        hidden_states(cpu, model, tokens, on_scheme(scheme, Arithmetic::integer)),
        "[Quantization] " + Scheme::parse(scheme).name() +
            " has no integer products: give 2 to 4 bits of weights and 2 to 8 of activations, such "
            "as w4a4kv4 or w4a8");
  ForwardOptions options = on_scheme("w4a4", Arithmetic::integer);
  options.quantization.weight_group = 12;
  CHECK_THROWS_WITH(hidden_states(cpu, model, tokens, options),
                    "[Quantization] weight group 12: integer products need 0 or a multiple of 8");
  options.quantization.weight_group = 24;
  options.quantization.o_proj_input = Quantization::OutputInput::per_head;
  Model const wide = Model::open(write_synthetic(folder / "wide", {.head_dim = 16}));
  CHECK_THROWS_WITH(hidden_states(cpu, wide, tokens, options),
                    "[hidden_states] scales of 16 channels of the o_proj input and of 24 of its weights: for "
                    "integer products both must be multiples of 8, one dividing the other");
}
