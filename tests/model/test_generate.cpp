// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/generate.hpp>

#include <algorithm>
#include <cmath>

#include "io/files.hpp"
#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

/// Without randomness every token is the likeliest after those before it, by the forward pass over whole
/// windows. A tie within rounding errors may go either way.
void check_greedy(Model const& model, TokenWindows const& windows, index_t given) {
  Cpu const cpu(1);
  RowMatrix<float> const all = logits(cpu, model, windows);
  for (index_t window = 0; window < windows.rows(); ++window)
    for (index_t position = given - 1; position + 1 < windows.cols(); ++position) {
      auto const row = all.row(window * windows.cols() + position);
      float const chosen = row[windows(window, position + 1)];
      CHECK(chosen >= row.maxCoeff() - 1e-4f * (1 + std::abs(chosen)));
    }
}

}  // namespace

TEST_CASE("a model that continues text sees what it sees in one pass", "[generate]") {
  TemporaryFolder const folder;
  SyntheticModel shape;
  auto const greedy = [&](char const* name) {
    Model const model = Model::open(write_synthetic(folder / name, shape));
    TokenWindows const prompts = some_tokens(3, 5, model.config().vocabulary);
    TokenWindows const windows = generate(Cpu(2), model, prompts, {.tokens = 24, .temperature = 0});
    REQUIRE(windows.leftCols(5) == prompts);
    check_greedy(model, windows, 5);
  };
  greedy("grouped");
  shape.kv_heads = shape.heads;
  greedy("plain");
}

TEST_CASE("a real model continues text as it would be read", "[generate]") {
  Model const model = Model::open(fs::path(DARTQUANT_EXAMPLE_DATA) / "tiny-llama");
  TokenWindows const windows = generate(Cpu(2), model, random_prompts(model.config().vocabulary, 4, 7),
                                        {.tokens = 48, .temperature = 0});
  check_greedy(model, windows, 1);
}

TEST_CASE("models of every family continue text as they would read it", "[generate][families]") {
  index_t families = 0;
  for (fs::directory_entry const& entry :
       fs::directory_iterator(fs::path(DARTQUANT_TEST_DATA) / "families")) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    INFO(entry.path().filename().string());
    Model const model = Model::open(entry.path());
    index_t const tokens = std::min<index_t>(24, model.config().positions);
    check_greedy(model,
                 generate(Cpu(2), model, some_tokens(3, 2, model.config().vocabulary),
                          {.tokens = tokens, .temperature = 0}),
                 2);
    ++families;
  }
  CHECK(families == 13);
}

TEST_CASE("the same seed draws the same tokens for any threads, another seed others", "[generate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const prompts = random_prompts(model.config().vocabulary, 5, 1);
  auto const drawn = [&](int threads, std::uint64_t seed) {
    return generate(Cpu(threads), model, prompts, {.tokens = 20, .seed = seed});
  };
  TokenWindows const first = drawn(1, 3);
  REQUIRE(drawn(2, 3) == first);
  REQUIRE(drawn(4, 3) == first);
  REQUIRE(drawn(1, 4) != first);
}

TEST_CASE("drawn tokens have the distribution of the model", "[generate]") {
  TemporaryFolder const folder;
  SyntheticModel shape{.vocabulary = 16};
  Model const model = Model::open(write_synthetic(folder / "m", shape));
  constexpr index_t draws = 4000;
  TokenWindows const prompts = TokenWindows::Constant(draws, 1, 3);
  TokenWindows const windows = generate(Cpu(2), model, prompts, {.tokens = 2, .temperature = 0.5, .seed = 9});
  Eigen::RowVectorXd expected =
      (2 * logits(Cpu(1), model, TokenWindows::Constant(1, 1, 3)).row(0).cast<double>()).array().exp();
  expected /= expected.sum();
  for (std::int32_t token = 0; token < 16; ++token) {
    double const p = expected[token], seen = static_cast<double>((windows.col(1).array() == token).count());
    CHECK(std::abs(seen - p * draws) < 5 * std::sqrt(p * draws) + 1);
  }
}

TEST_CASE("random prompts cover the vocabulary", "[generate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const prompts = random_prompts(model.config().vocabulary, 4000, 1);
  CHECK(prompts.minCoeff() >= 0);
  CHECK(prompts.maxCoeff() == static_cast<std::int32_t>(model.config().vocabulary) - 1);
  CHECK(random_prompts(model.config().vocabulary, 10, 2) != prompts.topRows(10));
}

TEST_CASE("what cannot be generated is refused", "[generate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(1);
  auto const vocabulary = static_cast<std::int32_t>(model.config().vocabulary);
  TokenWindows const prompts = some_tokens(2, 5, model.config().vocabulary);
  auto const with = [&](index_t tokens, double temperature) {
    return generate(cpu, model, prompts, {.tokens = tokens, .temperature = temperature});
  };
  CHECK(with(5, 1) == prompts);
  REQUIRE_INVALID(with(4, 1), "5 tokens are given of windows of 4");
  REQUIRE_INVALID(with(-1, 1), "-1 tokens");
  REQUIRE_INVALID(with(model.config().positions + 1, 1), "positions");
  REQUIRE_INVALID(with(8, -1), "temperature -1");
  REQUIRE_INVALID(with(8, std::nan("")), "temperature nan");
  REQUIRE_INVALID(generate(cpu, model, TokenWindows::Constant(1, 2, vocabulary), {.tokens = 8}),
                  "vocabulary");
  REQUIRE_INVALID(generate(cpu, model, TokenWindows(0, 2), {.tokens = 8}), "at least one token");
  REQUIRE_INVALID(random_prompts(model.config().vocabulary, 0, 1), "0 windows");
  REQUIRE_INVALID(random_prompts(0, 1, 1), "vocabulary of 0");
}
