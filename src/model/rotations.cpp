// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <dartquant/core/error.hpp>
#include <dartquant/io/safetensors.hpp>
#include <dartquant/model/fold.hpp>
#include <dartquant/transform/rotation.hpp>

namespace dartquant {
namespace {

using detail::fail;
using detail::require;
using detail::sentence;
using Kind = Error::Kind;

std::string r2_name(std::size_t layer) { return sentence("model.layers.", layer, ".self_attn.R2"); }

void check_orthonormal(MatrixView<double const> R, std::string const& name) {
  double const ratio = orthogonality_ratio(R);
  if (!(ratio < 30))
    fail(Kind::numerics, "[Rotations] ", name, " has |I - R^T R|_1 / (n eps) = ", ratio,
         "; a rotation must stay below 30");
}

void check_size(RowMatrix<double> const& R, index_t wanted, std::string const& name) {
  require(R.rows() == wanted && R.cols() == wanted, "[Rotations] ", name, " is ", R.rows(), " x ", R.cols(),
          ", but the model needs ", wanted, " x ", wanted);
}

void check_tensor(SafetensorsFile const& file, std::string const& name, std::vector<index_t> const& shape) {
  Tensor const* const tensor = file.find(name);
  if (tensor == nullptr) fail(Kind::format, file.path().string(), ": there is no tensor '", name, "'");
  if (tensor->dtype != Dtype::f64 ||
      !std::equal(tensor->shape.begin(), tensor->shape.end(), shape.begin(), shape.end()))
    fail(Kind::format, file.path().string(), ": tensor '", name, "' is ", describe(*tensor), "; F64 of ",
         shape[0], shape.size() == 3 ? sentence(" x ", shape[1]) : std::string(), " x ", shape.back(),
         " is needed");
}

}  // namespace

void Rotations::validate(ModelConfig const& config) const {
  if (r1.size() != 0) {
    check_size(r1, config.hidden, "R1");
    check_orthonormal(r1, "R1");
  }
  require(r2.empty() || static_cast<index_t>(r2.size()) == config.layers, "[Rotations] R2 of ", r2.size(),
          " layers, but the model has ", config.layers);
  for (std::size_t layer = 0; layer < r2.size(); ++layer) {
    require(static_cast<index_t>(r2[layer].size()) == config.kv_heads, "[Rotations] R2 of ", r2[layer].size(),
            " KV heads in layer ", layer, ", but the model has ", config.kv_heads);
    for (std::size_t head = 0; head < r2[layer].size(); ++head) {
      std::string const name = sentence("R2 of layer ", layer, ", KV head ", head);
      check_size(r2[layer][head], config.head_dim, name);
      check_orthonormal(r2[layer][head], name);
    }
  }
}

double Rotations::r1_orthogonality() const { return r1.size() == 0 ? 0 : orthogonality_ratio(r1); }

double Rotations::r2_orthogonality() const {
  double largest = 0;
  for (auto const& layer : r2)
    for (RowMatrix<double> const& R : layer) largest = std::max(largest, orthogonality_ratio(R));
  return largest;
}

void save_rotations(Rotations const& rotations, std::filesystem::path const& file,
                    std::map<std::string, std::string> const& metadata) {
  std::vector<TensorInfo> tensors;
  if (rotations.r1.size() != 0)
    tensors.push_back({"R1", Dtype::f64, {rotations.r1.rows(), rotations.r1.cols()}});
  for (std::size_t layer = 0; layer < rotations.r2.size(); ++layer) {
    auto const& heads = rotations.r2[layer];
    require(!heads.empty(), "[save_rotations] layer ", layer, " has no R2: every layer or none needs them");
    tensors.push_back(
        {r2_name(layer), Dtype::f64, {static_cast<index_t>(heads.size()), heads[0].rows(), heads[0].cols()}});
  }
  SafetensorsWriter writer(file, std::move(tensors), metadata);
  if (rotations.r1.size() != 0) writer.append("R1", MatrixView<double const>(rotations.r1));
  for (std::size_t layer = 0; layer < rotations.r2.size(); ++layer)
    for (RowMatrix<double> const& R : rotations.r2[layer])
      writer.append(r2_name(layer), MatrixView<double const>(R));
  writer.commit();
}

Rotations load_rotations(std::filesystem::path const& path, ModelConfig const& config) {
  SafetensorsFile const file(path);
  Rotations rotations;
  std::size_t expected = 0;
  if (file.find("R1") != nullptr) {
    check_tensor(file, "R1", {config.hidden, config.hidden});
    rotations.r1 = file.read_matrix<double>(*file.find("R1"));
    ++expected;
  }
  if (file.find(r2_name(0)) != nullptr) {
    auto const layers = static_cast<std::size_t>(config.layers);
    rotations.r2.resize(layers);
    expected += layers;
    for (std::size_t layer = 0; layer < layers; ++layer) {
      check_tensor(file, r2_name(layer), {config.kv_heads, config.head_dim, config.head_dim});
      Tensor stacked = *file.find(r2_name(layer));
      std::array<index_t, 2> const shape{config.kv_heads * config.head_dim, config.head_dim};
      stacked.shape = shape;
      RowMatrix<double> const heads = file.read_matrix<double>(stacked);
      for (index_t head = 0; head < config.kv_heads; ++head)
        rotations.r2[layer].emplace_back(heads.middleRows(head * config.head_dim, config.head_dim));
    }
  }
  if (file.tensors().size() != expected)
    fail(Kind::format, path.string(), ": ", file.tensors().size(), " tensors, ", expected,
         " of which are rotations of this model (R1, model.layers.i.self_attn.R2)");
  rotations.validate(config);
  return rotations;
}

}  // namespace dartquant
