// SPDX-License-Identifier: Apache-2.0
#include "facts.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>

#include <fmt/core.h>

#include "units.hpp"

namespace dartquant::program {
namespace {

std::string last_part(std::string const& path) {
  std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  return folder.filename().string();
}

std::string shown(std::string const& value) {
  std::string const name = value.find('/') == value.npos ? value : last_part(value);
  return name.find_first_of(" \t\n'\"<>&|;$") == name.npos ? name : "\"" + name + "\"";
}

}  // namespace

std::string command_line(CLI::App const& command) {
  constexpr std::array unrelated{"--json", "--csv", "--html", "--threads", "--isa", "--quiet"};
  std::string text = "dartquant " + command.get_name();
  for (CLI::Option const* const option : command.get_options()) {
    std::string const name = option->get_name();
    if (option->count() == 0 || std::find(unrelated.begin(), unrelated.end(), name) != unrelated.end())
      continue;
    if (name.starts_with("-")) text += " " + name;
    if (option->get_items_expected() > 0)
      for (std::string const& value : option->results()) text += " " + shown(value);
  }
  return text;
}

Fact model_fact(Model const& model) {
  ModelConfig const& config = model.config();
  return {"model",
          fmt::format(
              "{}: {}, {} parameters in {}, {} layers, {} channels, {} intermediate, {} heads on {} KV heads "
              "of {}, vocabulary {}",
              name_of(model), config.architecture, format_count(static_cast<double>(config.parameters())),
              to_string(config.dtype), config.layers, config.hidden, config.intermediate, config.heads,
              config.kv_heads, config.head_dim, config.vocabulary)};
}

Fact text_fact(std::string const& what, std::string const& file, TokenWindows const& windows) {
  std::uint64_t checksum = 0xCBF29CE484222325u;
  for (index_t i = 0; i < windows.size(); ++i)
    for (int shift = 0; shift < 32; shift += 8)
      checksum =
          (checksum ^ (static_cast<std::uint32_t>(windows.data()[i]) >> shift & 0xFFu)) * 0x100000001B3u;
  return {what, fmt::format("{}: {} windows of {} tokens, checksum {:016x}", last_part(file), windows.rows(),
                            windows.cols(), checksum)};
}

Fact rounding_fact(Quantization const& quantization) {
  auto const name = [](Symmetry symmetry) {
    return symmetry == Symmetry::symmetric ? "symmetric" : "asymmetric";
  };
  std::string const group = quantization.weight_group == 0
                                ? "one scale per output channel"
                                : fmt::format("one scale per {} inputs", quantization.weight_group);
  bool const per_head = quantization.o_proj_input == Quantization::OutputInput::per_head;
  return {
      "rounding",
      fmt::format("weights by {}, {}, {}, range {}; activations {} per token{}, {:g} of the range; keys and "
                  "values asymmetric per token and head, {:g} of the range",
                  dartquant::name_of(quantization.weight_rounding), name(quantization.weight_symmetry), group,
                  quantization.weight_clip == ClipSearch::mse ? "searched (MSE)" : "full",
                  name(quantization.activation_symmetry), per_head ? " (o_proj input per head)" : "",
                  quantization.activation_clip, quantization.kv_clip)};
}

}  // namespace dartquant::program
