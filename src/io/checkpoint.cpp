// SPDX-License-Identifier: Apache-2.0
#include <dartquant/io/checkpoint.hpp>

#include <algorithm>
#include <set>

#include <dartquant/core/error.hpp>

#include "io/json.hpp"
#include "io/posix.hpp"

namespace dartquant {
namespace {

namespace fs = std::filesystem;
using detail::fail;
using detail::printable;
using Kind = Error::Kind;

/// Index: tensor -> name of its shard. The names come from a file that anybody may have written, so they must
/// not lead out of the folder.
std::map<std::string, std::string> read_weight_map(fs::path const& index) {
  detail::Json const json = detail::read_json(index);
  std::map<std::string, std::string> shards;
  for (auto const& [tensor, shard] : detail::object_member(json, "weight_map", index.string()).items()) {
    std::string const name = detail::to_text(shard, printable(tensor), index.string());
    bool const plain = !name.empty() && name != "." && name.find("..") == std::string::npos &&
                       name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!plain)
      fail(Kind::format, "[Checkpoint] ", index.string(), ": tensor '", printable(tensor), "' is mapped to '",
           printable(name), "', which is not a plain file name inside the folder");
    shards.emplace(tensor, name);
  }
  return shards;
}

[[noreturn]] void nothing_found(fs::path const& folder) {
  std::error_code error;
  if (!fs::exists(folder, error))
    fail(Kind::io, "[Checkpoint] ", folder.string(), ": the folder does not exist");
  if (!fs::is_directory(folder, error))
    fail(Kind::io, "[Checkpoint] ", folder.string(),
         ": this is a file; name the folder that holds the model");
  bool const pickled = fs::exists(folder / "pytorch_model.bin", error) ||
                       fs::exists(folder / "pytorch_model.bin.index.json", error);
  fail(Kind::io, "[Checkpoint] ", folder.string(),
       ": no model.safetensors and no model.safetensors.index.json here",
       pickled ? "; the pytorch_model.bin beside it must be converted to safetensors first" : "");
}

}  // namespace

Checkpoint::Checkpoint(fs::path const& folder) : folder_(folder) {
  std::error_code error;
  fs::path const single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
  if (fs::exists(single, error)) {
    files_.emplace_back(SafetensorsFile(single));
    for (Tensor const& tensor : files_[0].tensors()) places_.emplace(tensor.name, Place{0, &tensor});
  } else if (fs::exists(index, error)) {
    open_shards(index);
  } else {
    nothing_found(folder);
  }
}

Checkpoint::Checkpoint(TensorFile file) : folder_(file.path()) {
  files_.push_back(std::move(file));
  for (Tensor const& tensor : files_[0].tensors()) places_.emplace(tensor.name, Place{0, &tensor});
}

void Checkpoint::open_shards(fs::path const& index) {
  std::map<std::string, std::string> const shards = read_weight_map(index);
  std::set<std::string> names;
  for (auto const& [tensor, shard] : shards) names.insert(shard);
  files_.reserve(names.size());  // the places point into the files' tensors
  for (std::string const& shard : names) {
    std::error_code error;
    if (!fs::exists(folder_ / shard, error))
      fail(Kind::io, "[Checkpoint] ", folder_.string(), ": the shard '", printable(shard),
           "' that the index names is missing; download it again");
    TensorFile const& file = files_.emplace_back(SafetensorsFile(folder_ / shard));
    for (Tensor const& tensor : file.tensors()) {
      auto const listed = shards.find(std::string(tensor.name));
      if (listed == shards.end()) continue;  // the index decides what belongs to the checkpoint
      if (listed->second != shard)
        fail(Kind::format, "[Checkpoint] ", folder_.string(), ": the tensor '", printable(tensor.name),
             "' is in the shard '", printable(shard), "', but the index maps it to '",
             printable(listed->second), "'");
      places_.emplace(tensor.name, Place{files_.size() - 1, &tensor});
    }
  }
  for (auto const& [tensor, shard] : shards)
    if (!contains(tensor))
      fail(Kind::format, "[Checkpoint] ", folder_.string(), ": the tensor '", printable(tensor),
           "' is missing in the shard '", printable(shard), "' that the index maps it to");
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> all;
  all.reserve(places_.size());
  for (auto const& [name, place] : places_) all.push_back(name);
  return all;
}

bool Checkpoint::contains(std::string_view name) const noexcept {
  return places_.find(name) != places_.end();
}

Checkpoint::Place const& Checkpoint::place(std::string_view name) const {
  auto const found = places_.find(name);
  if (found == places_.end())
    fail(Kind::format, "[Checkpoint] ", folder_.string(), ": the tensor '", printable(name), "' is missing");
  return found->second;
}

Tensor const& Checkpoint::tensor(std::string_view name) const { return *place(name).tensor; }

template <class T>
RowMatrix<T> Checkpoint::read_matrix(std::string_view name, NonFinite non_finite) const {
  Place const& where = place(name);
  return files_[where.file].template read_matrix<T>(*where.tensor, non_finite);
}

template RowMatrix<float> Checkpoint::read_matrix(std::string_view, NonFinite) const;
template RowMatrix<double> Checkpoint::read_matrix(std::string_view, NonFinite) const;

void Checkpoint::release(std::string_view name) const {
  Place const& where = place(name);
  files_[where.file].release(*where.tensor);
}

}  // namespace dartquant
