// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>
#include <dartquant/transform/hadamard.hpp>

#include "model/learn.hpp"
#include "model/residual_stream.hpp"
#include "model/weights.hpp"

namespace dartquant {
namespace {

using Bytes = std::uint64_t;

/// 32-bit operations per second of this machine, from one product of 768^3, the better of two; with the way
/// to another machine where products go there.
double measured_speed(Cpu const& cpu) {
  constexpr index_t n = 768;
  RowMatrix<float> const A = RowMatrix<float>::Ones(n, n);
  RowMatrix<float> C(n, n);
  double best = 0;
  for (int run = 0; run < 2; ++run) {
    auto const start = std::chrono::steady_clock::now();
    cpu.gemm<float>(1.0f, A, Op::none, A, Op::transpose, 0.0f, C);
    double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * n * n * n / std::max(seconds, 1e-9));
  }
  return best;
}

Bytes bytes_of(index_t rows, index_t cols, std::size_t size) {
  return static_cast<Bytes>(rows) * static_cast<Bytes>(cols) * size;
}

index_t largest_linear(ModelConfig const& config) {
  return config.hidden * std::max(config.intermediate, config.query_channels());
}

/// One pass over all layers: hidden states, one layer in float, one tensor of it in FP64 twice, the buffers
/// of a group of windows.
void add_forward(Cpu const& cpu, ModelConfig const& config, index_t windows, index_t seqlen, Plan& plan) {
  index_t const tokens = windows * seqlen, group = std::min(tokens, detail::rows_of_group(cpu, seqlen));
  index_t const channels =
      config.hidden + 2 * config.query_channels() + 2 * config.kv_channels() + 2 * config.intermediate;
  plan.memory_bytes += bytes_of(tokens, config.hidden, 4) + bytes_of(config.layer_parameters(), 1, 4) +
                       bytes_of(2 * largest_linear(config), 1, 8) + bytes_of(group, channels, 4);
  double const attention = 2.0 * static_cast<double>(seqlen) * static_cast<double>(config.query_channels());
  plan.operations += static_cast<double>(tokens) * static_cast<double>(config.layers) *
                     (2.0 * static_cast<double>(config.layer_parameters()) + attention);
}

void add_folding(ModelConfig const& config, Plan& plan) {
  auto const hidden = static_cast<double>(config.hidden);
  plan.operations += 2 * 2.0 * hidden * static_cast<double>(config.parameters());  // FP64 counts twice
}

/// The samples of a layer in float and FP64, two greedy rotations of each input.
void add_transforms(ModelConfig const& config, ModelCalibrationOptions const& options,
                    CaptureOptions const& capture, index_t tokens, Plan& plan) {
  constexpr double steps = 256;
  index_t const rows = std::min(capture.site_rows, tokens);
  index_t const channels = 2 * config.hidden + config.query_channels() + config.intermediate;
  index_t const widest = std::max({config.hidden, config.query_channels(), config.intermediate});
  plan.memory_bytes += bytes_of(rows, channels, 4) + bytes_of(2 * rows, widest, 8);
  SiteChain const sites = traits(options.method).sites;
  if (sites == SiteChain::none || sites == SiteChain::learned_blocks) return;  // learning is added beside
  double const block = static_cast<double>(std::min(options.block, config.intermediate));
  double const search = 2 * steps * 2 * block * static_cast<double>(rows) * static_cast<double>(channels);
  plan.operations += 2 * search * static_cast<double>(config.layers);  // FP64 counts twice
}

void add_learning(ModelConfig const& config, ModelCalibrationOptions const& options,
                  CaptureOptions const& capture, index_t tokens, Plan& plan) {
  index_t const r1_rows = std::min(capture.r1_rows, 2 * config.layers * tokens);
  index_t const r2_rows = std::min(capture.r2_rows, tokens);
  MethodTraits const& method = traits(options.method);
  double const weights = detail::weight_rows_of(options), with_weights = weights > 0 ? 1 + weights : 0;
  // The sample, its sorted copy, the rotated copy, that with rows of weights, and the matrices of the
  // optimizer.
  plan.memory_bytes +=
      bytes_of(3 * r1_rows, config.hidden, 4) +
      bytes_of(static_cast<index_t>(with_weights * static_cast<double>(r1_rows)), config.hidden, 4) +
      bytes_of(2 * r2_rows, config.query_channels(), 4) + bytes_of(12 * config.hidden, config.hidden, 8) +
      bytes_of(config.layers * config.kv_heads * config.head_dim, config.head_dim, 8);
  if (method.transforms()) add_transforms(config, options, capture, tokens, plan);
  if (!method.learns()) return;
  constexpr double steps = 160, batch = 4096;
  auto const cost = [&](double channels) {
    return steps * (4 * batch * channels * channels + 7 * channels * channels * channels);
  };
  if (options.rotations.r1) plan.operations += cost(static_cast<double>(config.hidden));
  if (options.rotations.r2)
    plan.operations +=
        cost(static_cast<double>(config.head_dim)) * static_cast<double>(config.layers * config.kv_heads);
}

void add_second_pass(Cpu const& cpu, ModelConfig const& config, ModelCalibrationOptions const& options,
                     index_t windows, index_t seqlen, Plan& plan) {
  bool const blocks = traits(options.method).sites == SiteChain::learned_blocks;
  if (detail::weight_rows_of(options) == 0 && !blocks) return;
  Plan pass;  // in the memory of the first
  add_forward(cpu, config, windows, seqlen, pass);
  plan.operations += pass.operations;
}

/// Two passes over the text, one Hessian at a time in FP64 with its factor, and a few products of each weight
/// with it.
void add_rounding(Cpu const& cpu, ModelConfig const& config, index_t windows, index_t seqlen, Plan& plan) {
  auto const tokens = static_cast<double>(windows * seqlen);
  index_t const widest = std::max({config.hidden, config.intermediate, config.query_channels()});
  add_forward(cpu, config, windows, seqlen, plan);
  plan.operations *= 2;
  plan.memory_bytes += bytes_of(3 * widest, widest, 8) + bytes_of(3 * largest_linear(config), 1, 4);
  auto const cube = [](index_t channels) { return std::pow(static_cast<double>(channels), 3); };
  for (index_t const channels :
       {config.hidden, config.query_channels(), config.hidden, config.intermediate}) {
    double const squared = static_cast<double>(channels) * static_cast<double>(channels);
    plan.operations += 2 * static_cast<double>(config.layers) * (tokens * squared + 2 * cube(channels));
  }
  plan.operations += 2 * 6 * static_cast<double>(config.layers * config.layer_parameters()) *
                     static_cast<double>(config.hidden);
}

void add_scores(ModelConfig const& config, index_t tokens, Plan& plan) {
  constexpr index_t block = 4096, tile = 256;
  index_t const vocabulary = std::min(block, config.vocabulary);
  plan.memory_bytes += bytes_of(3 * tokens, config.hidden, 4) + bytes_of(tokens, 1, 80) +
                       bytes_of(2 * vocabulary, config.hidden, 12) + bytes_of(2 * tile, vocabulary, 4);
  plan.operations += 4.0 * static_cast<double>(tokens) * static_cast<double>(config.vocabulary) *
                     static_cast<double>(config.hidden);
}

/// All weights in float, keys and values of all windows. Every token passes over all weights once.
void add_generating(ModelConfig const& config, index_t windows, index_t seqlen, Plan& plan) {
  plan.memory_bytes += bytes_of(config.parameters(), 1, 4) + bytes_of(2 * largest_linear(config), 1, 8) +
                       bytes_of(2 * config.layers * windows * seqlen, config.kv_channels(), 4) +
                       bytes_of(windows, 2 * config.vocabulary, 4);
  plan.operations += 2.0 * static_cast<double>(windows * seqlen) * static_cast<double>(config.parameters());
  plan.disk_bytes = bytes_of(windows, seqlen, 4);
}

void note_hadamard(ModelConfig const& config, Plan& plan) {
  for (auto const& [name, channels] : {std::pair{"R3", config.head_dim}, {"R4", config.intermediate}}) {
    index_t const block = detail::online_block(channels);
    if (block != channels)
      plan.notes.push_back(detail::sentence(name, " would be block-diagonal with blocks of ", block,
                                            ": no Hadamard matrix of order ", channels, " is known"));
  }
}

}  // namespace

Plan plan(Cpu const& cpu, Model const& model, Job job, index_t windows, index_t seqlen,
          ModelCalibrationOptions const& options, CaptureOptions const& capture) {
  ModelConfig const& config = model.config();
  bool const folds = job == Job::fold;
  detail::require(folds || (windows >= 1 && seqlen >= 2), "[plan] ", windows, " windows of ", seqlen,
                  " tokens: at least one window of 2 tokens is needed");
  Plan result;
  if (job == Job::round) add_rounding(cpu, config, windows, seqlen, result);
  else if (job == Job::generate) add_generating(config, windows, seqlen, result);
  else if (!folds) add_forward(cpu, config, windows, seqlen, result);
  if (job == Job::calibrate) {
    add_learning(config, options, capture, windows * seqlen, result);
    add_second_pass(cpu, config, options, detail::second_pass_windows(windows, seqlen, capture), seqlen,
                    result);
    result.disk_bytes = bytes_of(config.hidden, config.hidden, 8) +
                        bytes_of(config.layers * config.kv_heads * config.head_dim, config.head_dim, 8);
  }
  if (job == Job::evaluate) {
    add_scores(config, windows * seqlen, result);
    add_folding(config, result);
  }
  if (folds) {
    add_folding(config, result);
    result.memory_bytes = bytes_of(2 * std::max(largest_linear(config), 1024 * config.hidden), 1, 8) +
                          bytes_of(2 * config.hidden, config.hidden, 8);
    ModelConfig untied = config;
    untied.tied_embeddings = false;
    result.disk_bytes =
        bytes_of(untied.parameters(), 1, static_cast<std::size_t>(bit_width(config.dtype)) / 8);
  }
  constexpr Bytes program = Bytes{48} << 20;  // code, tables, the allocator's slack
  result.memory_bytes += program;
  if (job != Job::generate) note_hadamard(config, result);
  result.seconds = result.operations / measured_speed(cpu);
  return result;
}

}  // namespace dartquant
