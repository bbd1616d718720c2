// SPDX-License-Identifier: Apache-2.0
#include "model/fold_folder.hpp"

#include <array>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/version.hpp>

#include "io/checksum.hpp"
#include "io/json.hpp"
#include "io/read_file.hpp"
#include "model/layout.hpp"

namespace dartquant::detail {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t small_file = std::size_t{1} << 28;

/// What a Hugging Face reader looks for beside weights and config; copied byte by byte where present.
constexpr std::array<std::string_view, 9> companions{"generation_config.json",
                                                     "tokenizer.json",
                                                     "tokenizer_config.json",
                                                     "special_tokens_map.json",
                                                     "tokenizer.model",
                                                     "added_tokens.json",
                                                     "vocab.json",
                                                     "merges.txt",
                                                     "chat_template.jinja"};

std::string_view torch_name(Dtype dtype) {
  return dtype == Dtype::f16 ? "float16" : dtype == Dtype::bf16 ? "bfloat16" : "float32";
}

std::string output_config(Model const& model, FoldOptions const& options) {
  Json config = parse_json(model.config_text(), (model.folder() / "config.json").string());
  config["tie_word_embeddings"] = false;
  if (options.dtype) {
    char const* const key =
        config.contains("dtype") && !config.contains("torch_dtype") ? "dtype" : "torch_dtype";
    config[key] = torch_name(*options.dtype);
  }
  return config.dump(2).append("\n");
}

std::string hexadecimal(std::uint64_t value) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(value));
  return text.data();
}

/// Size and checksum of the data of every weight file, tensor by tensor.
Json input_files(Model const& model) {
  Json files = Json::object();
  for (TensorFile const& file : model.checkpoint().files()) {
    Checksum checksum;
    std::uint64_t bytes = 0;
    for (Tensor const& tensor : file.tensors()) {
      checksum.add(tensor.bytes);
      bytes += tensor.bytes.size();
      file.release(tensor);
    }
    files[file.path().filename().string()] = {{"data_bytes", bytes},
                                              {"data_checksum", hexadecimal(checksum.value())}};
  }
  return files;
}

std::string manifest(Model const& model, FoldOptions const& options, FoldReport const& report) {
  RotationSet folded = options.rotations;
  bool const r4 = options.rotations.r4 || model.needs_r4();
  folded.r4 = r4;
  Json const text{
      {"written_by", sentence("DartQuant ", version())},
      {"manifest_version", 1},
      {"rotations", folded.name()},
      {"online_rotations", r4 ? Json::array({"r4"}) : Json::array()},
      {"weights",
       {{"bits", options.weights.bits},
        {"group", options.weights.group},
        {"clip", options.weights.clip == ClipSearch::mse ? "mse" : "none"},
        {"symmetry", options.weights.symmetry == Symmetry::symmetric ? "symmetric" : "asymmetric"},
        {"rounding", std::string(name_of(options.weights.rounding))}}},
      {"orthogonality", {{"r1", report.r1_orthogonality}, {"r2", report.r2_orthogonality}}},
      {"input", input_files(model)},
      {"options", options.manifest},
      {"notes", report.notes}};
  return text.dump(2).append("\n");
}

/// A small file, written under its temporary name and flushed; only the rename is left.
AtomicFile prepared(fs::path const& path, std::string_view content) {
  AtomicFile file(path, content.size());
  file.write(content);
  file.sync();
  return file;
}

/// Weights and config.json of an earlier output must not be mixed with new ones: its config goes first, and
/// comes back if the new weights cannot be put in place.
void replace_weights(fs::path const& output, CheckpointWriter& writer) {
  fs::path const config = output / "config.json";
  std::optional<std::string> earlier;
  if (fs::exists(config)) {
    earlier = read_file(config, small_file);
    fs::remove(config);
  }
  try {
    writer.commit();
  } catch (...) {
    if (earlier) write_file_atomically(config, *earlier);
    throw;
  }
}

/// Only the parts that were folded.
Rotations used_part(Rotations const& rotations, RotationSet set) {
  Rotations used;
  if (set.r1) used.r1 = rotations.r1;
  if (set.r2) used.r2 = rotations.r2;
  used.layers = rotations.layers;
  return used;
}

void count_files(fs::path const& output, FoldReport& report) {
  for (fs::directory_entry const& entry : fs::directory_iterator(output))
    if (entry.path().filename().string().ends_with(".safetensors") ||
        entry.path().filename() == "model.safetensors.index.json")
      report.files.insert(report.files.begin(), entry.path());
  for (fs::path const& file : report.files) report.bytes_written += fs::file_size(file);
}

}  // namespace

void check_output_folder(fs::path const& input, fs::path const& output) {
  require_distinct(input, output);
  std::error_code error;
  if (!fs::exists(output, error)) return;
  if (!fs::is_directory(output, error))
    fail(Error::Kind::io, "[fold] ", output.string(), ": it is not a folder");
  if (fs::exists(output / manifest_name, error)) return;
  for (fs::directory_entry const& entry : fs::directory_iterator(output, error)) {
    std::string const name = entry.path().filename().string();
    if (name.find(".tmp.") == std::string::npos)
      fail(Error::Kind::io, "[fold] ", output.string(), ": it holds '", name,
           "' and no dartquant.json, so it is not an earlier output; choose an empty or a new folder");
  }
  if (error) fail(Error::Kind::io, "[fold] ", output.string(), ": cannot be listed (", error.message(), ")");
}

void finish_folder(Model const& model, Rotations const& rotations, fs::path const& output,
                   FoldOptions const& options, CheckpointWriter& writer, FoldReport& report) {
  std::vector<AtomicFile> files;
  for (std::string_view const name : companions)
    if (fs::exists(model.folder() / name))
      files.push_back(prepared(output / name, read_file(model.folder() / name, small_file)));
  if (!fs::is_directory(model.folder()) && model.has_tokenizer())  // a GGUF file
    files.push_back(prepared(output / "tokenizer.json", model.tokenizer_text().value()));
  files.push_back(prepared(output / manifest_name, manifest(model, options, report)));
  files.push_back(prepared(output / "config.json", output_config(model, options)));
  replace_weights(output, writer);
  Rotations const used = used_part(rotations, options.rotations);
  if (used.r1.size() != 0 || !used.r2.empty() || !used.layers.empty())
    save_rotations(used, output / rotations_name);
  else fs::remove(output / rotations_name);
  for (AtomicFile& file : files) {
    file.commit();
    report.files.push_back(file.path());
  }
  count_files(output, report);
}

}  // namespace dartquant::detail
