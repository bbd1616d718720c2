// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <dartquant/io/atomic_file.hpp>

#include "interrupt.hpp"
#include "peak_memory.hpp"
#include "terminal.hpp"
#include "units.hpp"

namespace dartquant::program {
namespace {

std::string losses(std::vector<double> const& loss) {
  if (loss.empty()) return "not learned";
  return fmt::format("{:.4g} -> {:.4g} over epochs 1 to {}", loss.front(), loss.back(), loss.size());
}

/// One line on the transforms of single layers: means over the inputs.
std::string describe(std::vector<TransformSummary> const& transforms) {
  if (transforms.empty()) return "";
  TransformSummary mean;
  auto const count = static_cast<double>(transforms.size());
  for (TransformSummary const& each : transforms) {
    mean.largest_before += each.largest_before / count;
    mean.largest_after += each.largest_after / count;
    mean.block_mean_variance_before += each.block_mean_variance_before / count;
    mean.block_mean_variance_after += each.block_mean_variance_after / count;
  }
  return fmt::format(
      "Transforms of {} inputs: largest |x| {:.3g} -> {:.3g}, variance of block means {:.2g} -> {:.2g}\n",
      transforms.size(), mean.largest_before, mean.largest_after, mean.block_mean_variance_before,
      mean.block_mean_variance_after);
}

Json to_json(TransformSummary const& transform) {
  return {{"site", std::string(dartquant::name_of(transform.site))},
          {"layer", transform.layer},
          {"block", transform.block},
          {"largest_before", transform.largest_before},
          {"largest_after", transform.largest_after},
          {"block_mean_variance_before", transform.block_mean_variance_before},
          {"block_mean_variance_after", transform.block_mean_variance_after}};
}

}  // namespace

std::string name_of(Model const& model) {
  std::filesystem::path folder = std::filesystem::absolute(model.folder()).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  return folder.filename().string();
}

std::string describe(Model const& model) {
  ModelConfig const& config = model.config();
  std::uint64_t bytes = 0;
  for (TensorFile const& file : model.checkpoint().files())
    for (Tensor const& tensor : file.tensors()) bytes += tensor.bytes.size();
  std::size_t const files = model.checkpoint().files().size();
  return fmt::format(
      "{}: {}, {} parameters, {}, {} in {} {}\n"
      "  {} layers, {} channels, {} intermediate, {} heads on {} KV heads of {}, vocabulary {}, {} "
      "positions, {} "
      "embeddings\n",
      bold(name_of(model)), config.architecture, format_count(static_cast<double>(config.parameters())),
      to_string(config.dtype), format_bytes(bytes), files, files == 1 ? "file" : "files", config.layers,
      config.hidden, config.intermediate, config.heads, config.kv_heads, config.head_dim, config.vocabulary,
      config.positions, config.tied_embeddings ? "tied" : "untied");
}

Json to_json(ModelConfig const& config) {
  return {{"architecture", config.architecture},
          {"parameters", config.parameters()},
          {"layers", config.layers},
          {"hidden", config.hidden},
          {"intermediate", config.intermediate},
          {"heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_dim", config.head_dim},
          {"vocabulary", config.vocabulary},
          {"positions", config.positions},
          {"tied_embeddings", config.tied_embeddings},
          {"dtype", std::string(to_string(config.dtype))}};
}

std::string describe(Plan const& plan) {
  std::string text =
      fmt::format("about {}, {} of memory", format_seconds(plan.seconds), format_bytes(plan.memory_bytes));
  if (plan.disk_bytes > 0) text += fmt::format(", {} on disk", format_bytes(plan.disk_bytes));
  return text;
}

void print_plan(CommonFlags const& flags, std::string_view device, std::string_view what, Plan const& plan) {
  if (flags.quiet) return;
  fmt::print(stderr, "Plan: {}, on {}; {}\n", what, device, describe(plan));
  std::uint64_t const available = free_memory();
  if (available > 0 && plan.memory_bytes > available)
    fmt::print(stderr, "Only {} of memory are free now: fewer --samples, --rows or --windows need less\n",
               format_bytes(available));
  for (std::string const& note : plan.notes) fmt::print(stderr, "note: {}\n", note);
}

double perplexity_error(Evaluation const& evaluation) {
  return evaluation.perplexity * evaluation.standard_error;
}

std::string_view plus_minus() { return speaks_utf8() ? "±" : "+-"; }

std::string format_perplexity(Evaluation const& evaluation) {
  return fmt::format("{:.4f} {} {:.4f}", evaluation.perplexity, plus_minus(), perplexity_error(evaluation));
}

Json to_json(Evaluation const& evaluation) {
  Json result{{"perplexity", evaluation.perplexity},
              {"perplexity_standard_error", perplexity_error(evaluation)},
              {"nll", evaluation.nll},
              {"standard_error", evaluation.standard_error},
              {"windows", evaluation.windows},
              {"tokens_scored", evaluation.tokens_scored}};
  if (evaluation.has_kl)
    result.update(Json{{"kl", evaluation.kl},
                       {"kl_median", evaluation.kl_median},
                       {"kl_p90", evaluation.kl_p90},
                       {"kl_p99", evaluation.kl_p99},
                       {"kl_max", evaluation.kl_max},
                       {"top1_agreement", evaluation.top1_agreement}});
  if (!evaluation.notes.empty()) result["notes"] = evaluation.notes;
  return result;
}

std::string describe(ModelCalibration const& found) {
  std::string text = fmt::format("R1: loss {}, {} steps, {} rows\n", losses(found.r1_loss), found.r1_steps,
                                 found.r1_sample_rows);
  for (std::size_t layer = 0; layer < found.r2_loss.size(); ++layer)
    if (!found.r2_loss[layer].empty())
      text += fmt::format("R2 of layer {}: loss {}\n", layer, losses(found.r2_loss[layer]));
  text += fmt::format("Whip per channel {:.4f} -> {:.4f} (Gaussian 0.523, uniform 0.475)\n",
                      found.whip_before, found.whip_after);
  text += fmt::format("Orthogonality |I - R'R| / (n eps): R1 {:.2g}, R2 {:.2g} (good below 30)\n",
                      found.r1_orthogonality, found.r2_orthogonality);
  return text + describe(found.transforms) + describe(found.notes);
}

Json to_json(ModelCalibration const& found) {
  Json transforms = Json::array();
  for (TransformSummary const& each : found.transforms) transforms.push_back(to_json(each));
  return {{"method", std::string(dartquant::name_of(found.method))},
          {"seed", found.seed},
          {"r1_loss", found.r1_loss},
          {"r1_seconds", found.r1_seconds},
          {"r1_steps", found.r1_steps},
          {"r2_steps", found.r2_steps},
          {"r2_loss", found.r2_loss},
          {"whip_per_channel_before", found.whip_before},
          {"whip_per_channel", found.whip_after},
          {"r1_orthogonality", found.r1_orthogonality},
          {"r2_orthogonality", found.r2_orthogonality},
          {"transforms", transforms},
          {"r1_rows", found.r1_sample_rows},
          {"seconds", found.seconds},
          {"notes", found.notes}};
}

std::string describe(std::vector<std::string> const& notes) {
  std::string text;
  for (std::string const& note : notes) text += fmt::format("note: {}\n", note);
  return text;
}

void write_text(std::string const& file, std::string_view text) {
  if (file.empty()) return;
  TemporaryFiles const guard;
  write_file_atomically(file, text);
}

void write_json(std::string const& file, Json const& report) {
  write_text(file, report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace dartquant::program
