// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/architecture.hpp>

#include <algorithm>
#include <set>

#include <dartquant/core/error.hpp>
#include <dartquant/io/gguf.hpp>

#include "io/json.hpp"
#include "io/read_file.hpp"
#include "model/gguf_model.hpp"
#include "model/layout.hpp"
#include "model/quantized_weights.hpp"

namespace dartquant {
namespace {

using detail::fail;
using Kind = Error::Kind;

void check_tensor(Checkpoint const& checkpoint, TensorInfo const& wanted) {
  Tensor const& found = checkpoint.tensor(wanted.name);
  if (!std::equal(found.shape.begin(), found.shape.end(), wanted.shape.begin(), wanted.shape.end())) {
    std::string shape;
    for (index_t const size : wanted.shape)
      shape.append(shape.empty() ? "" : ", ").append(std::to_string(size));
    fail(Kind::format, checkpoint.folder().string(), ": tensor '", wanted.name, "' is ", describe(found),
         ", but config.json asks for [", shape, "]");
  }
  bool const blocks = found.dtype == Dtype::q8_0 || found.dtype == Dtype::q4_0;  // only GGUF has them
  if (found.dtype != Dtype::f32 && found.dtype != Dtype::f16 && found.dtype != Dtype::bf16 && !blocks)
    fail(Kind::unsupported, checkpoint.folder().string(), ": tensor '", wanted.name, "' is ", describe(found),
         "; only F32, F16 and BF16 weights can be read");
}

/// A tensor that the config does not ask for would be left out of the arithmetic in silence: only those known
/// to be without effect may be there.
void check_no_others(Checkpoint const& checkpoint, Family const& family,
                     std::vector<TensorInfo> const& wanted) {
  std::set<std::string_view> known{family.head};  // a tied model may store the matrix twice
  for (TensorInfo const& tensor : wanted) known.insert(tensor.name);
  for (std::string const& name : checkpoint.names())
    if (!known.contains(name) && !name.ends_with("rotary_emb.inv_freq"))
      fail(Kind::unsupported, checkpoint.folder().string(), ": tensor '", name, "' is not part of ",
           family.architecture, " as config.json describes it; is a key such as attention_bias missing?");
}

/// The manifest that `fold` leaves says whether R4 has to run online.
bool manifest_needs_r4(std::filesystem::path const& folder) {
  std::filesystem::path const file = folder / detail::manifest_name;
  if (!std::filesystem::exists(file)) return false;
  detail::Json const manifest = detail::read_json(file);
  bool needed = false;
  for (detail::Json const& name : detail::array_member(manifest, "online_rotations", file.string()))
    needed = needed || detail::to_text(name, "online_rotations", file.string()) == "r4";
  return needed;
}

}  // namespace

Model Model::open(std::filesystem::path const& folder, Weights allowed) {
  Model model;
  model.folder_ = folder;
  std::error_code error;
  bool const gguf = std::filesystem::is_regular_file(folder, error) && is_gguf(folder);
  std::filesystem::path const file = gguf ? folder : folder / "config.json";
  if (gguf) {
    detail::GgufModel read = detail::open_gguf(folder);
    model.config_text_ = std::move(read.config_text);
    model.tokenizer_text_ = std::move(read.tokenizer_text);
    model.tokenizer_error_ = std::move(read.tokenizer_error);
    model.checkpoint_ = std::make_shared<Checkpoint const>(std::move(read.tensors));
  } else {
    model.config_text_ = detail::read_file(file, std::size_t{1} << 24);
  }
  std::string text = model.config_text_;
  std::string const quantization =
      allowed == Weights::any ? detail::take_quantization(text, file.string()) : std::string();
  model.config_ = parse_config(text, file.string());
  model.family_ = &family_of(model.config_.architecture);
  if (!gguf) model.checkpoint_ = std::make_shared<Checkpoint const>(folder);
  if (!quantization.empty()) {
    model.quantized_ = std::make_shared<FolderQuantization const>(
        detail::read_quantization(folder, quantization, model.config_));
    detail::check_packed_tensors(model);
    return model;
  }
  std::vector<TensorInfo> const wanted = expected_tensors(*model.family_, model.config_);
  for (TensorInfo const& tensor : wanted) check_tensor(*model.checkpoint_, tensor);
  check_no_others(*model.checkpoint_, *model.family_, wanted);
  model.needs_r4_ = !gguf && manifest_needs_r4(folder);
  return model;
}

bool Model::has_tokenizer() const {
  return tokenizer_text_.has_value() ||
         (tokenizer_error_.empty() && std::filesystem::exists(folder_ / "tokenizer.json"));
}

std::optional<std::string> Model::tokenizer_text() const {
  if (!tokenizer_error_.empty()) throw Error(Kind::unsupported, tokenizer_error_);
  std::filesystem::path const file = folder_ / "tokenizer.json";
  if (tokenizer_text_ || !std::filesystem::exists(file)) return tokenizer_text_;
  return detail::read_file(file, std::size_t{1} << 28);
}

}  // namespace dartquant
