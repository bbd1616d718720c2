// SPDX-License-Identifier: Apache-2.0
//
// Other ways of learning R1, beside that of the default method and in its place.
//
//   bench_candidates MODEL SEQLEN SEEDS EVALUATION.txt CALIBRATION.txt
//
// From 48 windows of the calibration text, spread over it, and for every seed: `centred` with R1 learned by
// each candidate (by QR-Orth where nothing else is said), R2 as always. Then perplexity and KL on the first
// 64 windows of the evaluation text at w4a4kv4, weights to nearest, R1 to R4 active: each seed, and the
// change from the first, paired by seed, with its 95 % interval.
#include <dartquant/model/make_learner.hpp>
#include <dartquant/model/pipeline.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "candidates/lbfgs.hpp"
#include "candidates/mixed.hpp"
#include "dartquant/statistics.hpp"
#include "windows.hpp"

namespace {

namespace dq = dartquant;
using dq::index_t;

/// A way to learn R1.
struct Candidate {
  std::string name;
  std::function<dq::Calibration(dq::MatrixView<float const>, dq::Learning const&)> rotation;
};

template <class Objective, class Optimizer>
Candidate candidate(dq::Cpu const& cpu, std::string name, Objective const& objective,
                    Optimizer const& optimizer, bool one_batch) {
  return {std::move(name), [=](dq::MatrixView<float const> X, dq::Learning const& learning) {
            auto options = dq::detail::calibration_options<Objective, Optimizer>(learning);
            options.objective = objective;
            options.optimizer = optimizer;
            if (one_batch) {
              index_t const rows = std::min<index_t>(X.rows(), 16384);
              options.batch_rows = rows;
              return dq::calibrate_rotation(cpu, X.rows(0, rows), options);
            }
            return dq::calibrate_rotation(cpu, X, options);
          }};
}

/// Of every seed.
struct Scores {
  std::vector<double> nll, kl, seconds, loss;
};

int start(std::vector<std::string> const& words) {
  if (words.size() != 5) {
    std::fputs("bench_candidates MODEL SEQLEN SEEDS EVALUATION.txt CALIBRATION.txt\n", stderr);
    return 2;
  }
  dq::Cpu const cpu(1);
  dq::Model const model = dq::Model::open(words[0]);
  auto const seqlen = static_cast<index_t>(std::stoll(words[1]));
  dq::TokenWindows const all = dq::bench::windows_of_text(model, words[3], seqlen),
                         windows = dq::bench::spread(dq::bench::windows_of_text(model, words[4], seqlen), 48);
  dq::Baseline const original = dq::baseline_of(cpu, model, all.topRows(std::min<index_t>(64, all.rows())));
  auto const qr = [&](std::string name, auto const& objective) {
    return candidate(cpu, std::move(name), objective, dq::Sgd{}, false);
  };
  std::vector<Candidate> const candidates{
      candidate(cpu, "Whip, Procrustes", dq::Whip{}, dq::Procrustes{}, false),
      qr("Whip", dq::Whip{}),
      candidate(cpu, "Whip, L-BFGS of 16384 rows", dq::Whip{}, dq::candidates::Lbfgs{}, true),
      qr("1/2 Whip + 1/2 peak", dq::candidates::WhipAndPeak{.share = 0.5}),
      qr("1/4 Whip + 3/4 peak", dq::candidates::WhipAndPeak{.share = 0.75}),
      qr("peak (the default)", dq::Peak{}),
      qr("peak of temperature 0.1", dq::Peak{.temperature = 0.1}),
      qr("peak of temperature 0.15", dq::Peak{.temperature = 0.15}),
      qr("peak of temperature 0.4", dq::Peak{.temperature = 0.4})};
  dq::Learners const usual = dq::learners_on(cpu);
  dq::Quantization const quantization{.scheme = dq::Scheme::parse("w4a4kv4")};
  std::vector<Scores> scores(candidates.size());
  for (std::uint64_t seed = 0; seed < std::stoull(words[2]); ++seed)
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      double seconds = 0;
      double loss = 0;
      auto const learners = [&](dq::LearnedObjective objective, dq::LearningRule rule) {
        dq::Learner learner = usual(objective, rule);
        learner.rotation = [&](dq::MatrixView<float const> X, dq::Learning const& learning) {
          auto const begun = std::chrono::steady_clock::now();
          dq::Calibration found = candidates[i].rotation(X, learning);
          seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
          dq::RowMatrix<float> const rows = Eigen::Map<dq::RowMatrix<float> const, 0, Eigen::OuterStride<>>(
              X.data(), X.rows(), X.cols(), Eigen::OuterStride<>(X.stride()));
          loss = dq::loss_per_channel(cpu, dq::apply(cpu, found.rotation, rows));
          return found;
        };
        return learner;
      };
      dq::ModelCalibration const found = dq::calibrate(
          cpu, model, windows, {.method = dq::Method::centred, .seed = seed, .learners = learners});
      dq::Evaluation const result = dq::evaluate(
          cpu, model, original.windows,
          dq::forward_options(found, {.r1 = true, .r2 = true, .r3 = true, .r4 = true}, quantization),
          &original);
      scores[i].nll.push_back(result.nll);
      scores[i].kl.push_back(result.kl);
      scores[i].seconds.push_back(seconds);
      scores[i].loss.push_back(loss);
      std::printf("%s\tseed %llu\tWhip %.5f\t%.2f s\tperplexity %.4f\tKL %.4f\n", candidates[i].name.c_str(),
                  static_cast<unsigned long long>(seed), loss, seconds, result.perplexity, result.kl);
      std::fflush(stdout);
    }
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    auto const change = dq::program::paired_difference(scores[i].nll, scores[0].nll);
    auto const kl = dq::program::paired_difference(scores[i].kl, scores[0].kl);
    auto const percent = [](double nats) { return 100 * std::expm1(nats); };
    std::printf("%s\tWhip %.5f\t%.2f s\tperplexity %+.2f [%+.2f, %+.2f] %%\tKL %+.4f [%+.4f, %+.4f]\n",
                candidates[i].name.c_str(), dq::program::estimate(scores[i].loss).mean,
                dq::program::estimate(scores[i].seconds).mean, percent(change.mean), percent(change.low),
                percent(change.high), kl.mean, kl.low, kl.high);
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return start({words + 1, words + count});
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
