// SPDX-License-Identifier: Apache-2.0
#include "model/fold_gguf.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/atomic_file.hpp>
#include <dartquant/io/sha256.hpp>
#include <dartquant/version.hpp>

#include "io/gguf_tokenizer.hpp"
#include "io/json.hpp"
#include "model/gguf_config.hpp"
#include "model/gguf_names.hpp"

namespace dartquant::detail {
namespace {

namespace fs = std::filesystem;

void check_output(Model const& model, fs::path const& output) {
  if (model.needs_r4())
    fail(Error::Kind::unsupported, "[fold] ", model.folder().string(),
         " needs R4 online, which no engine that reads GGUF runs; use the original checkpoint");
  require_distinct(model.folder(), output);
  std::error_code error;
  if (!fs::exists(output, error)) return;
  bool ours = false;
  try {
    ours = fs::is_regular_file(output, error) && GgufFile(output).text("dartquant.version").has_value();
  } catch (Error const&) {  // some other file
  }
  if (!ours)
    fail(Error::Kind::io, "[fold] ", output.string(),
         ": it is no earlier output (a GGUF file with the key "
         "dartquant.version); choose another name");
}

/// The type of a tensor in the file: vectors are F32 as engines want them, and what has no whole blocks F16.
Dtype stored_dtype(TensorInfo const& tensor, Dtype wanted, bool embedding) {
  if (tensor.shape.size() < 2) return Dtype::f32;
  if (wanted == Dtype::q4_0 && embedding) wanted = Dtype::q8_0;
  return tensor.shape.back() % block_elements(wanted) == 0 ? wanted : Dtype::f16;
}

/// llama.cpp's number for the type of most tensors.
std::uint32_t file_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return 0;
    case Dtype::q4_0:
      return 2;
    case Dtype::q8_0:
      return 7;
    case Dtype::bf16:
      return 32;
    default:
      return 1;
  }
}

SpecialIds special_ids(Model const& model) {
  std::string const source = (model.folder() / "config.json").string();
  Json const config = parse_json(model.config_text(), source);
  auto const id = [&](char const* key) -> std::optional<std::int64_t> {
    Json const* value = find_member(config, key, source);
    if (value != nullptr && value->is_array() && !value->empty()) value = &value->front();
    return value != nullptr && value->is_number_integer() ? std::optional(value->get<std::int64_t>())
                                                          : std::nullopt;
  };
  return {.bos = id("bos_token_id"), .eos = id("eos_token_id"), .padding = id("pad_token_id")};
}

/// What dartquant.json says of a folder.
void add_origin(std::vector<GgufEntry>& entries, Rotations const& rotations, FoldOptions const& options) {
  entries.push_back({"dartquant.version", std::string(version())});
  entries.push_back({"dartquant.folded", options.rotations.name()});
  if (options.rotations.r1 && rotations.r1.size() > 0)
    entries.push_back(
        {"dartquant.r1.sha256", sha256(std::as_bytes(std::span(
                                    rotations.r1.data(), static_cast<std::size_t>(rotations.r1.size()))))});
  auto const given = [&](char const* option) {
    auto const found = options.manifest.find(option);
    return found == options.manifest.end() ? std::string() : found->second;
  };
  if (std::string const hash = given("rotations_calibration_sha256"); !hash.empty())
    entries.push_back({"dartquant.calib.sha256", hash});
  std::string const seed = given("rotations_seed");
  std::uint64_t number = 0;
  if (!seed.empty() && std::from_chars(seed.data(), seed.data() + seed.size(), number).ec == std::errc{})
    entries.push_back({"dartquant.seed", number});
}

std::vector<GgufEntry> metadata_of(Model const& model, GgufArchitecture const& row,
                                   Rotations const& rotations, FoldOptions const& options, Dtype dtype,
                                   FoldReport& report) {
  std::vector<GgufEntry> entries{{"general.architecture", std::string(row.name)},
                                 {"general.type", std::string("model")},
                                 {"general.name", model.folder().stem().string()},
                                 {"general.file_type", file_type(dtype)}};
  if (block_elements(dtype) > 1) entries.push_back({"general.quantization_version", std::uint32_t{2}});
  for (GgufEntry& entry : config_entries(model.config(), row)) entries.push_back(std::move(entry));
  GgufTokenizer tokenizer{
      {{"tokenizer.ggml.model", std::string("no_vocab")}},
      "the model has no tokenizer, and so has the GGUF file: give token ids to the engine"};
  if (model.has_tokenizer())
    tokenizer = gguf_tokenizer(*model.tokenizer_text(), (model.folder() / "tokenizer.json").string(),
                               special_ids(model), model.config().vocabulary);
  for (GgufEntry& entry : tokenizer.entries) entries.push_back(std::move(entry));
  if (!tokenizer.note.empty()) report.notes.push_back(tokenizer.note);
  add_origin(entries, rotations, options);
  return entries;
}

/// Rows [first, first + values.rows()) of whole heads in the order of GGUF's llama, see Tensor.
template <class T>
RowMatrix<T> interleaved(MatrixView<T const> values, index_t head_dim) {
  index_t const half = head_dim / 2;
  RowMatrix<T> stored(values.rows(), values.cols());
  for (index_t row = 0; row < values.rows(); ++row) {
    index_t const head = row / head_dim, part = row % head_dim / half, i = row % half;
    for (index_t col = 0; col < values.cols(); ++col)
      stored(head * head_dim + 2 * i + part, col) = values(row, col);
  }
  return stored;
}

}  // namespace

class GgufOutput::RenamingSink final : public TensorSink {
 public:
  RenamingSink(Model const& model, GgufArchitecture const& row, GgufWriter& writer)
      : model_(model), row_(row), names_(model.family()), writer_(writer) {}

  void append(std::string_view name, MatrixView<float const> values) override { put(name, next, values); }
  void append(std::string_view name, MatrixView<double const> values) override { put(name, next, values); }
  void append_bytes(std::string_view name, std::span<std::byte const> bytes) override {
    writer_.append_bytes(renamed(name), bytes);
  }
  void write_rows(std::string_view name, index_t first, MatrixView<float const> values) override {
    put(name, first, values);
  }
  void write_rows(std::string_view name, index_t first, MatrixView<double const> values) override {
    put(name, first, values);
  }

 private:
  static constexpr index_t next = -1;  ///< as the first row: the rows after those before

  [[nodiscard]] std::string renamed(std::string_view name) const {
    std::string gguf = names_.to_gguf(name);
    require(!gguf.empty(), "[fold] the tensor '", name, "' has no name in GGUF");
    return gguf;
  }
  /// Where the rows of a tensor begin in that which holds all experts of a layer.
  [[nodiscard]] index_t first_row(std::string_view name) const {
    index_t const expert = names_.expert_of(name);
    return expert == 0 ? 0 : expert * model_.checkpoint().tensor(name).shape[0];
  }
  template <class T>
  void hand_on(std::string const& gguf, index_t first, MatrixView<T const> values) {
    if (first == next) writer_.append(gguf, values);
    else writer_.write_rows(gguf, first, values);
  }
  template <class T>
  void put(std::string_view name, index_t first, MatrixView<T const> values) {
    if (!row_.own_head && name == model_.family().head) return;
    if (!row_.own_head && name == model_.family().final_norm) return put_final_gain();
    std::string const gguf = renamed(name);
    index_t const at = first == next ? next : first + first_row(name);
    if (float const added = added_value(model_.family(), gguf); added != 0) {
      RowMatrix<T> const sums = (as_eigen(values).array() + static_cast<T>(added)).matrix();
      return hand_on(gguf, at, MatrixView<T const>(sums));
    }
    index_t const head_dim = model_.config().head_dim;
    if (interleaved_heads(row_, model_.config(), gguf) == 0) return hand_on(gguf, at, values);
    bool const vector = gguf.ends_with(".bias");  // [1, channels]
    MatrixView<T const> const rows = vector ? MatrixView<T const>(values.data(), values.cols(), 1) : values;
    require(rows.rows() % head_dim == 0 && std::max<index_t>(0, first) % head_dim == 0, "[fold] the tensor '",
            name, "' in pieces of ", rows.rows(), " rows; whole heads of ", head_dim, " are needed");
    RowMatrix<T> stored = interleaved(rows, head_dim);
    if (vector) stored.resize(1, stored.rows());
    hand_on(gguf, at, MatrixView<T const>(stored));
  }
  /// Where the head is the embedding, the gain before it cannot fold.
  void put_final_gain() {
    std::string const name(model_.family().final_norm);
    RowMatrix<float> gain = model_.checkpoint().read_matrix<float>(name);
    gain.array() += added_value(model_.family(), renamed(name));
    writer_.append(renamed(name), MatrixView<float const>(gain));
  }

  Model const& model_;
  GgufArchitecture const& row_;
  GgufNames names_;
  GgufWriter& writer_;
};

namespace {

/// The tensors of the file: those of the untied model, experts of a layer in one.
std::vector<TensorInfo> gguf_tensors(Model const& model, GgufArchitecture const& row, Dtype dtype,
                                     FoldReport& report) {
  Family const& family = model.family();
  ModelConfig config = model.config();
  config.tied_embeddings = !row.own_head;
  GgufNames const names(family);
  std::vector<TensorInfo> tensors;
  std::set<std::string> merged;
  index_t odd_rows = 0;
  for (TensorInfo tensor : expected_tensors(family, config)) {
    bool const embedding = tensor.name == family.embedding || tensor.name == family.head;
    std::string const name = names.to_gguf(tensor.name);
    if (name.empty())
      fail(Error::Kind::unsupported, "[fold] the tensor '", tensor.name,
           "' has no name in GGUF; write a folder instead");
    tensor.name = name;
    if (GgufNames::is_shared_gate(name)) tensor.shape.erase(tensor.shape.begin());
    if (GgufNames::holds_experts(name)) {
      if (!merged.insert(name).second) continue;
      tensor.shape.insert(tensor.shape.begin(), config.mixture.experts);
    }
    bool const full = name.ends_with(".ffn_gate_inp.weight");  // llama.cpp multiplies routers in F32
    tensor.dtype = full ? Dtype::f32 : stored_dtype(tensor, dtype, embedding);
    odd_rows += block_elements(dtype) > 1 && tensor.shape.size() > 1 && tensor.dtype == Dtype::f16;
    tensors.push_back(std::move(tensor));
  }
  if (odd_rows > 0)
    report.notes.push_back(
        sentence(odd_rows, " matrices have rows of no whole blocks of 32 and are stored as F16"));
  return tensors;
}

/// The factors of RoPE's angles that GGUF has as tensors.
struct RopeTensor {
  std::string_view name;
  RowMatrix<float> values;
};
std::vector<RopeTensor> rope_tensors(ModelConfig const& config) {
  RopeScaling const& scaling = config.rope_scaling;
  auto const row = [](std::vector<double> const& values) -> RowMatrix<float> {
    return Eigen::Map<Eigen::RowVectorXd const>(values.data(), static_cast<index_t>(values.size()))
        .cast<float>();
  };
  if (scaling.kind == RopeScaling::Kind::llama3)
    return {{rope_factors_name, rope_factors(scaling, config.rope_theta, config.head_dim)}};
  if (scaling.kind == RopeScaling::Kind::longrope)
    return {{long_factors_name, row(scaling.long_factors)}, {short_factors_name, row(scaling.short_factors)}};
  return {};
}

}  // namespace

GgufOutput::GgufOutput(Model const& model, Rotations const& rotations, fs::path const& output,
                       FoldOptions const& options, int threads, FoldReport& report)
    : threads_(threads) {
  check_output(model, output);
  GgufArchitecture const& row = gguf_architecture_of(model.config().architecture);
  ModelConfig const& config = model.config();
  if (!row.own_head && (!config.tied_embeddings || options.rotations.r1))
    fail(Error::Kind::unsupported, "[fold] ", config.architecture,
         " as GGUF has the embedding as its head, which this model has not; write a folder instead");
  Dtype const dtype = options.dtype.value_or(config.dtype);
  std::vector<TensorInfo> tensors = gguf_tensors(model, row, dtype, report);
  if (block_elements(dtype) > 1 && (options.rotations.r1 || options.rotations.r2))
    report.notes.push_back(
        "weights alone, rounded in blocks of 32, gain little or nothing from rotations (docs/gguf.md has "
        "figures): "
        "R1 and R2 pay where activations are rounded too");
  if (std::string note = gguf_window_note(config, row); !note.empty())
    report.notes.push_back(std::move(note));
  std::vector<RopeTensor> const factors = rope_tensors(config);
  for (RopeTensor const& factor : factors)
    tensors.push_back({std::string(factor.name), Dtype::f32, {factor.values.cols()}});
  writer_ = std::make_unique<GgufWriter>(output, metadata_of(model, row, rotations, options, dtype, report),
                                         std::move(tensors));
  if (threads > 1) writer_->read_back_meanwhile();
  sink_ = std::make_unique<RenamingSink>(model, row, *writer_);
  for (RopeTensor const& factor : factors)
    writer_->append(factor.name, MatrixView<float const>(factor.values));
}

GgufOutput::~GgufOutput() = default;

TensorSink& GgufOutput::tensors() { return *sink_; }

void GgufOutput::finish(std::string const& manifest, FoldReport& report) {
  fs::path beside = writer_->path();
  beside += gguf_manifest_suffix;
  AtomicFile text(beside, manifest.size());
  text.write(manifest);
  text.sync();
  writer_->verify(threads_);
  writer_->commit();
  text.commit();
  report.files = {writer_->path(), beside};
  for (fs::path const& file : report.files) report.bytes_written += fs::file_size(file);
}

}  // namespace dartquant::detail
