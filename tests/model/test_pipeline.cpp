// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/pipeline.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <numeric>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

TEST_CASE("perplexity agrees with the reference of each real model", "[evaluate][real]") {
  Cpu const cpu(2);
  for (RealModel const& real : real_models()) {
    INFO(real.name);
    Model const model = Model::open(real.folder);
    bool const subset = !real.window_nll.empty();  // per-window numbers are given for the first windows
    Evaluation const found = evaluate(cpu, model, real.windows(subset ? 8 : 0));
    if (subset) {
      for (std::size_t window = 0; window < 8; ++window)
        CHECK(found.window_nll[window] == Approx(real.window_nll[window]).margin(1e-4));
      CHECK(found.tokens_scored == 8 * 255);
    } else {
      CHECK(found.perplexity == Approx(real.perplexity).epsilon(1e-3));
      CHECK(found.tokens_scored == 44704);
    }
    CHECK(found.standard_error > 0);
    CHECK_FALSE(found.has_kl);
  }
}

TEST_CASE("scores are those of the logits", "[evaluate]") {
  TemporaryFolder const folder;
  // More vocabulary than one block of lm_head rows.
  Model const model = Model::open(write_synthetic(folder / "m", {.vocabulary = 5000}));
  Cpu const cpu(2);
  TokenWindows const tokens = some_tokens(3, 9, 5000);
  ForwardOptions coarse;
  coarse.quantization.scheme = Scheme::parse("w4a4");
  RowMatrix<double> const p = logits(cpu, model, tokens).cast<double>(),
                          q = logits(cpu, model, tokens, coarse).cast<double>();
  auto const log_sum = [](RowMatrix<double> const& z, index_t row) {
    double const largest = z.row(row).maxCoeff();
    return largest + std::log((z.row(row).array() - largest).exp().sum());
  };
  double nll = 0, kl = 0;
  for (index_t row = 0; row < 27; ++row) {
    if (row % 9 == 8) continue;
    double const lp = log_sum(p, row), lq = log_sum(q, row);
    nll += lq - q(row, tokens.data()[row + 1]);
    for (index_t i = 0; i < 5000; ++i) kl += std::exp(p(row, i) - lp) * ((p(row, i) - lp) - (q(row, i) - lq));
  }
  Baseline const baseline = baseline_of(cpu, model, tokens);
  Evaluation const found = evaluate(cpu, model, tokens, coarse, &baseline);
  REQUIRE(found.tokens_scored == 24);
  REQUIRE(found.nll == Approx(nll / 24).epsilon(1e-9));
  REQUIRE(found.perplexity == Approx(std::exp(nll / 24)).epsilon(1e-9));
  REQUIRE(found.has_kl);
  REQUIRE(found.kl == Approx(kl / 24).epsilon(1e-7));
  REQUIRE(found.kl_median <= found.kl_p90);
  REQUIRE(found.kl_p90 <= found.kl_p99);
  REQUIRE(found.kl_p99 <= found.kl_max);
  REQUIRE(std::accumulate(found.window_nll.begin(), found.window_nll.end(), 0.0) / 3 == Approx(found.nll));
  Evaluation const same = evaluate(cpu, model, tokens, {}, &baseline);
  REQUIRE(same.kl == 0);
  REQUIRE(same.top1_agreement == 1);
}

TEST_CASE("an evaluation that makes no sense is refused", "[evaluate][bad]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Model const other = Model::open(write_synthetic(folder / "o", {.vocabulary = 60}));
  Cpu const cpu(1);
  TokenWindows const tokens = some_tokens(2, 8, 60);
  REQUIRE_INVALID(evaluate(cpu, model, TokenWindows::Zero(3, 1)), "windows of 1 tokens");
  Baseline const baseline = baseline_of(cpu, model, tokens);
  REQUIRE_INVALID(evaluate(cpu, model, some_tokens(2, 8, 60, 99), {}, &baseline), "are not these");
  REQUIRE_INVALID(evaluate(cpu, other, tokens, {}, &baseline), "vocabulary");
}

TEST_CASE("methods have the names of the program", "[methods]") {
  for (MethodTraits const& row : methods()) {
    INFO(row.name);
    REQUIRE(parse_method(row.name) == row.method);
    REQUIRE(traits(row.method).name == row.name);
    REQUIRE(describe_methods().find(std::string(row.name) + "  ") != std::string::npos);
  }
  REQUIRE(parse_method("quant-error") == Method::quant_error);
  REQUIRE(traits(parse_method("procrustes")).rule == LearningRule::procrustes);
  REQUIRE(traits(parse_method("cayley")).rule == LearningRule::cayley);
  REQUIRE_INVALID(parse_method("gptq"), "rtn, quarot, dartquant");
  REQUIRE_INVALID(traits(static_cast<Method>(1000)), "method 1000");
}

TEST_CASE("every method gives orthonormal rotations of the right sizes", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(2);
  TokenWindows const tokens = some_tokens(8, 32, 64);
  std::vector<ModelCalibrationOptions> runs;
  for (MethodTraits const& row : methods()) runs.push_back({.method = row.method, .seed = 3});
  std::vector<ModelCalibration> const found = calibrate_all(cpu, model, tokens, runs);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    INFO(name_of(runs[i].method));
    found[i].rotations.validate(model.config());
    REQUIRE(found[i].method == runs[i].method);
    REQUIRE(found[i].r1_sample_rows == 2 * 2 * 8 * 32);
    REQUIRE(found[i].r1_orthogonality < 30);
    REQUIRE(found[i].r2_orthogonality < 30);
    bool const rotates = traits(runs[i].method).rotates(), learns = traits(runs[i].method).learns();
    REQUIRE((found[i].rotations.r1.size() != 0) == rotates);
    REQUIRE(found[i].rotations.r2.size() == (rotates ? 2u : 0u));
    bool const signal =
        learns && runs[i].method != Method::variance;  // a rotation cannot change the variance
    REQUIRE(found[i].r1_loss.empty() != signal);
    if (!traits(runs[i].method).transforms())
      REQUIRE(found[i].notes.empty() == (runs[i].method != Method::variance));
    REQUIRE(found[i].r2_loss.size() == (learns ? 2u : 0u));
    REQUIRE(found[i].r1_seconds.size() == found[i].r1_loss.size());
    REQUIRE((found[i].r1_steps > 0) == signal);
    REQUIRE((found[i].r2_steps > 0) == signal);
    bool const centred = traits(runs[i].method).means == InputMeans::subtracted;
    if (centred) REQUIRE(found[i].rotations.layers.size() == 2);
    if (learns && traits(runs[i].method).objective == LearnedObjective::whip && !centred)
      REQUIRE(found[i].whip_after < found[1].whip_after);  // quarot, where they begin
  }
  ModelCalibration const& dartquant = found[2];
  REQUIRE(found[0].whip_after == found[0].whip_before);
  // One run alone gives what it gave among others.
  ModelCalibration const alone = calibrate(cpu, model, tokens, runs[2]);
  REQUIRE(alone.rotations.r1 == dartquant.rotations.r1);
  REQUIRE(alone.rotations.r2 == dartquant.rotations.r2);
}

TEST_CASE("a run may learn by another optimizer than its method's own", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(4, 32, 64);
  std::vector<ModelCalibrationOptions> const runs{
      {.seed = 3, .rule = LearningRule::procrustes},
      {.method = Method::procrustes, .seed = 3},
      {.method = Method::kurtosis, .seed = 3, .rule = LearningRule::procrustes}};
  std::vector<ModelCalibration> const found = calibrate_all(Cpu(1), model, tokens, runs);
  REQUIRE(found[0].rotations.r1 == found[1].rotations.r1);
  REQUIRE(found[0].rotations.r2 == found[1].rotations.r2);
  REQUIRE(found[2].r1_loss.back() < found[2].r1_loss.front());
  REQUIRE(parse_rule("qr-orth") == LearningRule::qr_orth);
  REQUIRE(name_of(LearningRule::cayley) == "cayley");
  REQUIRE_INVALID(parse_rule("adam"), "qr-orth, procrustes, cayley");
}

TEST_CASE("a run may learn on another objective than its method's own", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(4, 24, 64);
  std::vector<ModelCalibrationOptions> const runs{{.method = Method::dartquant, .seed = 3},
                                                  {.seed = 3, .objective = LearnedObjective::kurtosis},
                                                  {.method = Method::kurtosis, .seed = 3}};
  std::vector<ModelCalibration> const found = calibrate_all(Cpu(1), model, tokens, runs);
  REQUIRE(found[1].rotations.r1 == found[2].rotations.r1);
  REQUIRE(found[1].rotations.r1 != found[0].rotations.r1);
  for (auto const objective :
       {LearnedObjective::whip, LearnedObjective::quant_error, LearnedObjective::output_error})
    REQUIRE(parse_objective(name_of(objective)) == objective);
  REQUIRE_INVALID(parse_objective("loss"), "whip, uniformity, kurtosis");
  REQUIRE_INVALID(calibrate(Cpu(1), model, tokens,
                            {.method = Method::procrustes, .objective = LearnedObjective::variance}),
                  "variance does not go with");
}

TEST_CASE("centred calibration finds the means of inputs and keys", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  TokenWindows const tokens = some_tokens(8, 32, 64);
  ModelCalibrationOptions const options{.method = Method::centred, .seed = 3};
  ModelCalibration const found = calibrate(Cpu(1), model, tokens, options);
  ForwardOptions forward = forward_options(found, {.r1 = true, .r2 = true, .r3 = true, .r4 = true}, {});
  double largest = 0;
  index_t seen = 0;
  forward.observer = [&](Site site, index_t, index_t, MatrixView<float const> X) {
    if (site != Site::q_proj_input && site != Site::up_proj_input && site != Site::key) return;
    largest = std::max<double>(largest, as_eigen(X).colwise().mean().cwiseAbs().maxCoeff());
    ++seen;
  };
  static_cast<void>(hidden_states(Cpu(1), model, tokens, forward));
  REQUIRE(seen == 2 * 3);  // all tokens at a time
  REQUIRE(largest < 1e-4);
  for (int const threads : {2, 3}) {
    ModelCalibration const again = calibrate(Cpu(threads), model, tokens, options);
    REQUIRE(again.rotations.r1 == found.rotations.r1);
    REQUIRE(again.rotations.layers[1].key_shift == found.rotations.layers[1].key_shift);
    REQUIRE(again.rotations.layers[1].mlp_shift == found.rotations.layers[1].mlp_shift);
  }
  ModelCalibration const among =
      calibrate_all(Cpu(2), model, tokens, std::vector{ModelCalibrationOptions{}, options})[1];
  REQUIRE(among.rotations.r1 == found.rotations.r1);
  REQUIRE(among.whip_before == found.whip_before);
}

TEST_CASE("calibration looks only at the rotations asked for", "[calibrate]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(1);
  TokenWindows const tokens = some_tokens(4, 32, 64);
  ModelCalibration const r1 = calibrate(cpu, model, tokens, {.rotations = {.r1 = true}});
  REQUIRE(r1.rotations.r1.rows() == 32);
  REQUIRE(r1.rotations.r2.empty());
  ModelCalibration const r2 = calibrate(cpu, model, tokens, {.rotations = {.r2 = true}});
  REQUIRE(r2.rotations.r1.size() == 0);
  REQUIRE(r2.rotations.r2.size() == 2);
  REQUIRE(r2.whip_after == r2.whip_before);
  ForwardOptions const options =
      forward_options(r1, RotationSet::parse("r1,r3"), {.scheme = Scheme::parse("w4a4")});
  REQUIRE(options.active == RotationSet{.r1 = true});  // R3 only where the cache is quantized
  REQUIRE(forward_options(r1, RotationSet::parse("r1,r3"), {.scheme = {4, 4, 4}}).active.r3);
}

TEST_CASE("rotations have the same bytes for any number of threads", "[calibrate][threads]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.positions = 256}));
  TokenWindows const tokens = some_tokens(20, 200, 64);  // more rows than the sample keeps
  CaptureOptions const capture{.r1_rows = 3000, .r2_rows = 1000, .seed = 5};
  ModelCalibration const one = calibrate(Cpu(1), model, tokens, {.seed = 2}, capture);
  REQUIRE(one.r1_sample_rows == 3000);
  for (int const threads : {2, 4, 4}) {
    ModelCalibration const many = calibrate(Cpu(threads), model, tokens, {.seed = 2}, capture);
    REQUIRE(many.rotations.r1 == one.rotations.r1);
    REQUIRE(many.rotations.r2 == one.rotations.r2);
    REQUIRE(many.whip_after == one.whip_after);
  }
  REQUIRE(calibrate(Cpu(2), model, tokens, {.seed = 4}, capture).rotations.r1 != one.rotations.r1);
}

TEST_CASE("calibration options are checked", "[calibrate][bad]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {}));
  Cpu const cpu(1);
  TokenWindows const tokens = some_tokens(1, 8, 64);
  REQUIRE_INVALID(calibrate(cpu, model, tokens, {}, {.r1_rows = 0}), "0 rows for R1");
  REQUIRE_INVALID(calibrate(cpu, model, tokens, {.r1 = {.epochs = -1}}), "-1 epochs");
  REQUIRE_INVALID(calibrate(cpu, model, tokens, {.r2 = {.learning_rate = std::nan("")}}), "learning rate");
  REQUIRE_INVALID(calibrate(cpu, model, tokens, {.method = Method::procrustes, .r1 = {.learning_rate = 1}}),
                  "procrustes, which has none");
  REQUIRE_INVALID(
      calibrate(cpu, model, tokens, {.r1 = {.learning_rate = 1}, .rule = LearningRule::procrustes}),
      "dartquant, which has none");
  REQUIRE_INVALID(calibrate(cpu, model, tokens, {.method = Method::peak, .rule = LearningRule::cayley}),
                  "method peak by cayley");
  REQUIRE_INVALID(calibrate_all(cpu, model, tokens, {}), "0 runs");
}

TEST_CASE("whip calibration lowers the perplexity of tiny-llama at w16a4, about the means more",
          "[calibrate][real]") {
  RealModel const real = real_models()[0];
  Model const model = Model::open(real.folder);
  Cpu const cpu(2);
  TokenWindows const windows = real.windows(24);
  std::vector<ModelCalibrationOptions> const runs{
      {.method = Method::rtn}, {.method = Method::dartquant}, {.method = Method::centred}};
  std::vector<ModelCalibration> const found = calibrate_all(cpu, model, windows, runs);
  REQUIRE(found[1].whip_after < 0.495);
  Quantization const quantization{.scheme = Scheme::parse("w16a4")};
  auto const perplexity = [&](ModelCalibration const& calibration) {
    return evaluate(cpu, model, windows, forward_options(calibration, {.r1 = true}, quantization)).perplexity;
  };
  REQUIRE(perplexity(found[1]) < 0.9 * perplexity(found[0]));
  REQUIRE(perplexity(found[2]) < perplexity(found[1]));
}

TEST_CASE("a plan grows with the job", "[plan]") {
  TemporaryFolder const folder;
  Model const model = Model::open(write_synthetic(folder / "m", {.intermediate = 70}));
  Cpu const cpu(1);
  Plan const small = plan(cpu, model, Job::evaluate, 1, 32),
             large = plan(cpu, model, Job::evaluate, 1000, 32);
  REQUIRE(large.memory_bytes > small.memory_bytes);
  REQUIRE(large.operations > 100 * small.operations);
  REQUIRE(large.seconds > 0);
  Plan const folding = plan(cpu, model, Job::fold, 0, 0);
  REQUIRE(folding.disk_bytes == 4 * static_cast<std::uint64_t>(model.config().parameters()));
  REQUIRE(folding.notes.size() == 1);
  REQUIRE(folding.notes[0].find("70") != std::string::npos);
  REQUIRE(plan(cpu, model, Job::calibrate, 4, 32).disk_bytes > 0);
  REQUIRE_INVALID(plan(cpu, model, Job::evaluate, 0, 32), "0 windows");
}

namespace {

/// Peak resident memory of one calibration in a process of its own, in KiB.
long calibration_peak(fs::path const& folder) {
  pid_t const child = ::fork();
  if (child == 0) {
    try {
      Model const model = Model::open(folder);
      static_cast<void>(calibrate(Cpu(1), model, some_tokens(8, 64, 64),
                                  {.r1 = {.epochs = 1}, .r2 = {.epochs = 1}},
                                  {.r1_rows = 1024, .r2_rows = 256}));
      ::_exit(0);
    } catch (...) {
      ::_exit(1);
    }
  }
  int status = 0;
  rusage usage{};
  REQUIRE(::wait4(child, &status, 0, &usage) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return usage.ru_maxrss;
}

}  // namespace

TEST_CASE("peak memory of calibrate does not grow with the number of layers", "[calibrate][memory]") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  WARN("skipped: no meaningful peak memory under a sanitizer");
  return;
#endif
  TemporaryFolder const folder;
  SyntheticModel shape{
      .hidden = 128, .intermediate = 1024, .heads = 4, .kv_heads = 2, .head_dim = 32, .equal_layers = true};
  auto const peak_of = [&](index_t layers) {
    shape.layers = layers;  // 1.8 MB each
    write_synthetic(folder / std::to_string(layers), shape);
    return calibration_peak(folder / std::to_string(layers));
  };
  long const few = peak_of(4), many = peak_of(32), more = peak_of(64);
  INFO(few << " KiB with 4 layers, " << many << " KiB with 32, " << more << " KiB with 64");
  // 28 more layers are 51 MB, of which 4 MB show at 32 layers and 1.4 MB at 64: bounded, not growing. The
  // likely cause is pages that the kernel maps around the one that is read.
  REQUIRE(many - few < 6 * 1024);
  REQUIRE(more - many < 2 * 1024);
}
