// SPDX-License-Identifier: Apache-2.0
#include "flags.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/core/error.hpp>

#include "device.hpp"

namespace dartquant::program {
namespace {

/// "portable, avx2": what --isa accepts here. AMX needs the permission of the system.
std::string isa_names() {
  (void)dartquant_amx_request();
  std::string names;
  for (dartquant_isa const isa : available_isas())
    names.append(names.empty() ? "" : ", ").append(dartquant_isa_name(isa));
  return names;
}

CpuKernels kernels_of(std::string const& isa) {
  std::string const names = isa_names();
  if (isa.empty()) return compiled_kernels();
  auto const known = isa_of_name(isa);
  detail::require(known.has_value(), "--isa ", isa, ": there is no such instruction set; here are ", names);
  return compiled_kernels(*known);
}

}  // namespace

Machine CommonFlags::machine() const {
  Cpu const cpu = Cpu(threads).with_kernels(kernels_of(isa));
  std::optional<Device> other = open_device(device);
  if (!other) return {cpu, {}, "CPU"};
  return {cpu.with_products(std::move(other->products)), std::move(other->learners), std::move(other->name)};
}

CLI::Validator at_least(index_t least) {
  return CLI::Validator(
      [least](std::string& text) {
        index_t value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= least) return std::string();
        return "'" + text + "' is no whole number of at least " + std::to_string(least);
      },
      "");
}

void add_common_flags(CLI::App& command, CommonFlags& flags) {
  flags.threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 256);
  command
      .add_option("model", flags.model,
                  "Hugging Face checkpoint folder (config.json, *.safetensors, tokenizer.json)")
      ->type_name("MODEL")
      ->required();
  command.add_option("--seed", flags.seed, "of everything random; the same seed gives the same bytes")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--threads", flags.threads, "threads to use; results do not depend on it")
      ->type_name("N")
      ->check(at_least(1))
      ->check(CLI::Range(1, 256).description(""))
      ->capture_default_str();
  command
      .add_option(
          "--isa", flags.isa,
          "instruction set of the kernels, for comparisons; default the best of those here: " + isa_names())
      ->type_name("NAME");
  command.add_option("--json", flags.json, "write the results to this file as JSON")->type_name("FILE");
  command.add_flag("--quiet,-q", flags.quiet, "no plan and no progress, only the report");
}

void add_device_flag(CLI::App& command, CommonFlags& flags) {
  command.add_option("--device", flags.device, std::string(device_help))
      ->type_name("NAME")
      ->capture_default_str();
}

std::map<std::string, std::string> given_options(CLI::App const& command) {
  std::map<std::string, std::string> given;
  for (CLI::Option const* const option : command.get_options()) {
    // These change nothing in an output.
    constexpr std::array<std::string_view, 5> without_effect{"--threads", "--isa", "--json", "--quiet",
                                                             "--output"};
    std::string const name = option->get_name();
    if (option->count() == 0 || std::ranges::find(without_effect, name) != without_effect.end()) continue;
    std::string values;
    for (std::string value : option->results()) {
      while (value.size() > 1 && value.ends_with('/')) value.pop_back();
      values += (values.empty() ? "" : ",") + value.substr(value.rfind('/') + 1);
    }
    given[name] = values;
  }
  return given;
}

void add_text_flags(CLI::App& command, TextSource& source, std::string const& text_names,
                    std::string const& token_names, std::string const& purpose) {
  auto* const text =
      command.add_option(text_names, source.text, "text file " + purpose + ", encoded as one document");
  auto* const tokens =
      command.add_option(token_names, source.tokens, "token ids instead: a one-dimensional .npy file");
  text->type_name("TEXT");
  tokens->type_name("FILE.npy")->excludes(text);
}

void require_given(TextSource const& source, std::string const& names) {
  detail::require(source.given(), "no text was given: add ", names);
}

void add_method_flag(CLI::App& command, LearningFlags& flags) {
  command.add_option("--method", flags.method, "one of\n" + describe_methods())
      ->type_name("NAME")
      ->capture_default_str();
}

void add_samples_flag(CLI::App& command, index_t& samples) {
  command
      .add_option("--samples,--nsamples", samples,
                  "windows of text to learn from, spread over the whole file")
      ->type_name("N")
      ->check(at_least(1))
      ->capture_default_str();
}

void add_learning_flags(CLI::App& command, LearningFlags& flags) {
  std::string const group = "Learning (0: the default of the method)";
  auto const positive = at_least(1);
  auto const counted = at_least(0);
  add_samples_flag(command, flags.samples);
  auto const add = [&](char const* name, auto& value, char const* help, char const* type,
                       CLI::Validator const& check) {
    command.add_option(name, value, help)->type_name(type)->check(check)->capture_default_str()->group(group);
  };
  add("--rows", flags.r1_rows, "activation rows kept for R1, of all layers", "N", positive);
  add("--r2-rows", flags.r2_rows, "activation rows kept for R2, per layer", "N", positive);
  add("--site-rows", flags.site_rows, "activation rows kept for the transform of an input, per layer", "N",
      positive);
  add("--block", flags.block, "channels of a block of such a transform", "N", positive);
  command
      .add_option("--optimizer", flags.optimizer,
                  "in the place of what learned methods take: qr-orth, procrustes or cayley")
      ->check(CLI::IsMember({"qr-orth", "procrustes", "cayley"}))
      ->type_name("NAME")
      ->group(group);
  command
      .add_option("--objective", flags.objective,
                  "likewise: whip, uniformity, kurtosis, peak, variance, quant-error or output-error")
      ->type_name("NAME")
      ->group(group);
  command
      .add_option("--weight-rows", flags.weight_rows,
                  "rows of weights to learn on for every row of activations; default that of the method")
      ->check(CLI::Range(0.0, 16.0))
      ->type_name("SHARE")
      ->group(group);
  add("--epochs", flags.r1.epochs, "passes over the rows for R1", "N", counted);
  add("--r2-epochs", flags.r2.epochs, "passes over the rows for R2", "N", counted);
  add("--batch-rows", flags.r1.batch_rows, "rows per step of R1", "N", counted);
  add("--r2-batch-rows", flags.r2.batch_rows, "rows per step of R2", "N", counted);
  add("--lr", flags.r1.learning_rate, "learning rate of R1", "RATE", CLI::NonNegativeNumber);
  add("--r2-lr", flags.r2.learning_rate, "learning rate of R2", "RATE", CLI::NonNegativeNumber);
}

ModelCalibrationOptions LearningFlags::options(RotationSet rotations, std::uint64_t seed) const {
  return {.method = parse_method(method),
          .rotations = rotations,
          .seed = seed,
          .r1 = r1,
          .r2 = r2,
          .rule = optimizer.empty() ? std::nullopt : std::optional(parse_rule(optimizer)),
          .objective = objective.empty() ? std::nullopt : std::optional(parse_objective(objective)),
          .weight_rows = weight_rows,
          .block = block};
}

CaptureOptions LearningFlags::capture(std::uint64_t seed, Progress progress) const {
  return {.r1_rows = r1_rows,
          .r2_rows = r2_rows,
          .site_rows = site_rows,
          .seed = seed,
          .progress = std::move(progress)};
}

void add_scheme_flags(CLI::App& command, SchemeFlags& flags, std::string const& purpose) {
  command.add_option("--scheme", flags.scheme, purpose)->type_name("wNaNkvN")->capture_default_str();
  std::string const group = "Rounding";
  command
      .add_option(
          "--weights", flags.weights,
          "rtn: every weight to the nearest level; gptq: channel by channel, the later ones making up "
          "for the errors of the earlier; lwc: to nearest, in learned ranges. gptq and lwc look at "
          "what the layers read on the calibration text")
      ->check(CLI::IsMember({"rtn", "gptq", "lwc"}))
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--weight-order", flags.weight_order,
                  "of gptq: natural, or act (channels with the largest inputs first; groups stay "
                  "consecutive channels)")
      ->check(CLI::IsMember({"natural", "act"}))
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--damping", flags.damping,
                  "of gptq: added to the diagonal of the Hessian, in units of its mean; raised by itself "
                  "where it is too little. More trusts the calibration text less")
      ->type_name("RATIO")
      ->capture_default_str()
      ->group(group);
  command.add_flag("--asymmetric-weights", flags.asymmetric_weights, "weights with zero points")
      ->group(group);
  command
      .add_option("--weight-group", flags.weight_group,
                  "inputs that share a scale; 0: one scale per output channel")
      ->type_name("N")
      ->check(at_least(0))
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--weight-clip", flags.weight_clip, "mse (search the best range) or none; lwc has its own")
      ->check(CLI::IsMember({"mse", "none"}))
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--activation-clip", flags.activation_clip,
                  "share of a token's range that is kept, up to 1")
      ->type_name("RATIO")
      ->capture_default_str()
      ->group(group);
  command.add_option("--kv-clip", flags.kv_clip, "the same for keys and values")
      ->type_name("RATIO")
      ->capture_default_str()
      ->group(group);
  command.add_flag("--symmetric", flags.symmetric, "activations without zero points")->group(group);
  command.add_flag("--per-head", flags.per_head, "the o_proj input has one scale per token and head")
      ->group(group);
}

void add_integers_flag(CLI::App& command, bool& integers) {
  command
      .add_flag("--integers", integers,
                "also run on the products of the INT4 levels themselves and compare; for 2 to 4 bits of "
                "weights and 2 to "
                "8 of activations")
      ->group("Rounding");
}

Quantization SchemeFlags::quantization(Scheme parsed) const {
  Quantization result;
  result.scheme = parsed;
  result.weight_clip = weight_clip == "mse" ? ClipSearch::mse : ClipSearch::none;
  result.weight_group = weight_group;
  result.weight_symmetry = asymmetric_weights ? Symmetry::asymmetric : Symmetry::symmetric;
  result.weight_rounding = parse_rounding(weights);
  result.weight_order = weight_order == "act" ? GptqOrder::act_order : GptqOrder::natural;
  result.weight_damping = damping;
  result.activation_symmetry = symmetric ? Symmetry::symmetric : Symmetry::asymmetric;
  result.activation_clip = activation_clip;
  result.o_proj_input = per_head ? Quantization::OutputInput::per_head : Quantization::OutputInput::per_token;
  result.kv_clip = kv_clip;
  result.validate();
  return result;
}

}  // namespace dartquant::program
