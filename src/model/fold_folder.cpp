// SPDX-License-Identifier: Apache-2.0
#include "model/fold_folder.hpp"

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>

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

std::string output_config(Model const& model, std::optional<Dtype> dtype, std::string const& quantization) {
  Json config = parse_json(model.config_text(), (model.folder() / "config.json").string());
  config["tie_word_embeddings"] = false;
  if (dtype) {
    char const* const key =
        config.contains("dtype") && !config.contains("torch_dtype") ? "dtype" : "torch_dtype";
    config[key] = torch_name(*dtype);
  }
  if (!quantization.empty()) config["quantization_config"] = parse_json(quantization, "quantization_config");
  return config.dump(2).append("\n");
}

void finish_folder(Model const& model, FolderTexts const& texts, Rotations const& rotations,
                   fs::path const& output, CheckpointWriter& writer, FoldReport& report) {
  std::vector<AtomicFile> files;
  for (std::string_view const name : companions)
    if (fs::exists(model.folder() / name))
      files.push_back(prepared(output / name, read_file(model.folder() / name, small_file)));
  if (!fs::is_directory(model.folder()) && model.has_tokenizer())  // a GGUF file
    files.push_back(prepared(output / "tokenizer.json", model.tokenizer_text().value()));
  files.push_back(prepared(output / manifest_name, texts.manifest));
  files.push_back(prepared(output / "config.json", texts.config));
  replace_weights(output, writer);
  if (rotations.r1.size() != 0 || !rotations.r2.empty() || !rotations.layers.empty())
    save_rotations(rotations, output / rotations_name);
  else fs::remove(output / rotations_name);
  for (AtomicFile& file : files) {
    file.commit();
    report.files.push_back(file.path());
  }
  count_files(output, report);
}

}  // namespace dartquant::detail
