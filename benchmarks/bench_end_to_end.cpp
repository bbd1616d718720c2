// SPDX-License-Identifier: Apache-2.0
//
// Rotations that are learned through the whole quantized network, beside those that are learned layer by
// layer, on other text and on their own.
//
//   bench_end_to_end MODEL SEQLEN SEEDS EVALUATION.txt CALIBRATION.txt [OTHER.txt ...]
//
// From every calibration text (48 windows, spread over it) and seed: R1 and R2 of centred, and the same tuned
// on KL(original || quantized) of the same windows (end_to_end/tune.hpp). Then
// perplexity and KL on the first 64 windows of the evaluation text at w4a4kv4, weights to nearest, R1 to R4
// active: each seed, the mean with its deviation, and the change from the first calibration text to every
// other, paired by seed, with its 95 % interval.
#include <dartquant/model/pipeline.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "dartquant/statistics.hpp"
#include "end_to_end/tune.hpp"
#include "windows.hpp"

namespace {

namespace dq = dartquant;
using dq::index_t;

/// Nats per token of every seed.
using Scores = std::map<std::string, std::vector<double>>;

struct Setting {
  dq::Model model;
  index_t seqlen;
  std::uint64_t seeds;
  dq::Baseline original;  ///< of the evaluation text
};

void measure(dq::Cpu const& cpu, Setting const& setting, std::string const& name, std::string const& text,
             dq::ModelCalibration const& found, Scores& scores) {
  dq::Quantization const quantization{.scheme = dq::Scheme::parse("w4a4kv4")};
  dq::Evaluation const result =
      dq::evaluate(cpu, setting.model, setting.original.windows,
                   dq::forward_options(found, {.r1 = true, .r2 = true, .r3 = true, .r4 = true}, quantization),
                   &setting.original);
  scores[name].push_back(result.nll);
  std::printf("%s\t%s\tseed %llu\tperplexity %.4f\tKL %.4f\n", text.c_str(), name.c_str(),
              static_cast<unsigned long long>(found.seed), result.perplexity, result.kl);
  std::fflush(stdout);
}

Scores learn(dq::Cpu const& cpu, Setting const& setting, std::string const& text) {
  dq::TokenWindows const windows =
      dq::bench::spread(dq::bench::windows_of_text(setting.model, text, setting.seqlen), 48);
  Scores scores;
  for (std::uint64_t seed = 0; seed < setting.seeds; ++seed) {
    dq::ModelCalibration found =
        dq::calibrate(cpu, setting.model, windows, {.method = dq::Method::centred, .seed = seed});
    measure(cpu, setting, "centred", text, found, scores);
    dq::end_to_end::tune(cpu, setting.model, windows, {}, seed, found.rotations);
    measure(cpu, setting, "centred, tuned end to end", text, found, scores);
  }
  return scores;
}

double percent(double nats) { return 100 * std::expm1(nats); }

void summarize(std::string const& text, Scores const& scores, Scores const& first) {
  for (auto const& [name, nll] : scores) {
    std::vector<double> perplexity;
    for (double const nats : nll) perplexity.push_back(std::exp(nats));
    auto const mean = dq::program::estimate(perplexity);
    auto const change = dq::program::paired_difference(nll, first.at(name));
    std::printf("%s\t%s\t%.3f ± %.3f\tchange %+.2f [%+.2f, %+.2f] %%\n", text.c_str(), name.c_str(),
                mean.mean, mean.deviation, percent(change.mean), percent(change.low), percent(change.high));
  }
}

int start(std::vector<std::string> const& words) {
  if (words.size() < 5) {
    std::fputs("bench_end_to_end MODEL SEQLEN SEEDS EVALUATION.txt CALIBRATION.txt [OTHER.txt ...]\n",
               stderr);
    return 2;
  }
  dq::Cpu const cpu(1);
  dq::Model const model = dq::Model::open(words[0]);
  auto const seqlen = static_cast<index_t>(std::stoll(words[1]));
  dq::TokenWindows const all = dq::bench::windows_of_text(model, words[3], seqlen);
  Setting const setting{model, seqlen, std::stoull(words[2]),
                        dq::baseline_of(cpu, model, all.topRows(std::min<index_t>(64, all.rows())))};
  std::vector<Scores> scores;
  for (std::size_t i = 4; i < words.size(); ++i) scores.push_back(learn(cpu, setting, words[i]));
  for (std::size_t i = 4; i < words.size(); ++i) summarize(words[i], scores[i - 4], scores.front());
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
