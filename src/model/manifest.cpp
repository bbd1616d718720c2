// SPDX-License-Identifier: Apache-2.0
#include "model/manifest.hpp"

#include <array>
#include <filesystem>
#include <string_view>

#include <dartquant/version.hpp>

#include "io/file_hash.hpp"
#include "io/json.hpp"

namespace dartquant::detail {
namespace {

namespace fs = std::filesystem;

Json names_of(RotationSet set) {
  Json names = Json::array();
  if (set.r1) names.push_back("r1");
  if (set.r2) names.push_back("r2");
  if (set.r3) names.push_back("r3");
  if (set.r4) names.push_back("r4");
  return names;
}

InputFiles input_files(Model const& model) {
  InputFiles files;
  auto const add = [&](fs::path const& file) {
    files[file.filename().string()] = {fs::file_size(file), file_hash(file)};
  };
  for (TensorFile const& file : model.checkpoint().files()) add(file.path());
  constexpr std::array<std::string_view, 2> beside{"config.json", "tokenizer.json"};
  for (std::string_view const name : beside)
    if (fs::exists(model.folder() / name)) add(model.folder() / name);
  return files;
}

Json description_of(WeightQuantization const& weights) {
  return {{"bits", weights.bits},
          {"group", weights.group},
          {"clip", weights.clip == ClipSearch::mse ? "mse" : "none"},
          {"symmetry", weights.symmetry == Symmetry::symmetric ? "symmetric" : "asymmetric"},
          {"rounding", std::string(name_of(weights.rounding))}};
}

}  // namespace

std::future<InputFiles> hash_inputs(Model const& model, int threads) {
  return std::async(threads > 1 ? std::launch::async : std::launch::deferred,
                    [&model] { return input_files(model); });
}

std::string manifest_text(InputFiles const& inputs, Manifest const& manifest) {
  Json files = Json::object();
  for (auto const& [name, file] : inputs) files[name] = {{"bytes", file.bytes}, {"xxh128", file.xxh128}};
  Json const text{{"written_by", sentence("DartQuant ", version())},
                  {"manifest_version", 2},
                  {"format", manifest.format},
                  {"rotations", manifest.rotations.name()},
                  {"online_rotations", names_of(manifest.online)},
                  {"weights", description_of(manifest.weights)},
                  {"orthogonality", {{"r1", manifest.r1_orthogonality}, {"r2", manifest.r2_orthogonality}}},
                  {"input", files},
                  {"options", manifest.options},
                  {"notes", manifest.notes}};
  return text.dump(2).append("\n");
}

}  // namespace dartquant::detail
