// SPDX-License-Identifier: Apache-2.0
#include <dartquant/model/architecture.hpp>

#include <algorithm>
#include <set>

#include <dartquant/core/error.hpp>

#include "io/json.hpp"
#include "io/read_file.hpp"
#include "model/layout.hpp"

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
  if (found.dtype != Dtype::f32 && found.dtype != Dtype::f16 && found.dtype != Dtype::bf16)
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

Model Model::open(std::filesystem::path const& folder) {
  Model model;
  model.folder_ = folder;
  std::filesystem::path const file = folder / "config.json";
  model.config_text_ = detail::read_file(file, std::size_t{1} << 24);
  model.config_ = parse_config(model.config_text_, file.string());
  model.family_ = &family_of(model.config_.architecture);
  model.checkpoint_ = std::make_shared<Checkpoint const>(folder);
  std::vector<TensorInfo> const wanted = expected_tensors(*model.family_, model.config_);
  for (TensorInfo const& tensor : wanted) check_tensor(*model.checkpoint_, tensor);
  check_no_others(*model.checkpoint_, *model.family_, wanted);
  model.needs_r4_ = manifest_needs_r4(folder);
  return model;
}

}  // namespace dartquant
