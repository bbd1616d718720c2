// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include <dartquant/core/error.hpp>
#include <dartquant/io/safetensors.hpp>
#include <dartquant/model/rotations.hpp>

#include "model/layer_parts.hpp"
#include "model/layout.hpp"

namespace dartquant {
namespace {

using detail::fail;
using detail::part_name;
using detail::require;
using detail::sentence;
using Kind = Error::Kind;
using Matrices = std::vector<RowMatrix<double>>;

std::string r2_name(std::size_t layer) { return part_name(layer, "self_attn.R2"); }

/// Tensors that are declared first and written once all are known.
class Declared {
 public:
  void matrix(std::string name, RowMatrix<double> const& M) {
    add({std::move(name), Dtype::f64, {M.rows(), M.cols()}}, [&M](SafetensorsWriter& writer, auto& tensor) {
      writer.append(tensor, MatrixView<double const>(M));
    });
  }
  void stack(std::string name, Matrices const& stacked) {
    RowMatrix<double> const& first = stacked.front();
    add({std::move(name), Dtype::f64, {static_cast<index_t>(stacked.size()), first.rows(), first.cols()}},
        [&stacked](SafetensorsWriter& writer, auto& tensor) {
          for (RowMatrix<double> const& M : stacked) writer.append(tensor, MatrixView<double const>(M));
        });
  }
  void vector(std::string name, std::vector<double> const& values) {
    add({std::move(name), Dtype::f64, {static_cast<index_t>(values.size())}},
        [&values](SafetensorsWriter& writer, auto& tensor) {
          writer.append(tensor,
                        MatrixView<double const>(values.data(), 1, static_cast<index_t>(values.size())));
        });
  }
  void integers(std::string name, std::vector<index_t> values) {
    TensorInfo tensor{std::move(name), Dtype::i64, {static_cast<index_t>(values.size())}};
    add(std::move(tensor), [values = std::move(values)](SafetensorsWriter& writer, auto& tensor_name) {
      writer.append_bytes(tensor_name, std::as_bytes(std::span(values)));
    });
  }

  void write(std::filesystem::path const& file, std::map<std::string, std::string> const& metadata) const {
    SafetensorsWriter writer(file, tensors_, metadata);
    for (std::size_t i = 0; i < tensors_.size(); ++i) append_[i](writer, tensors_[i].name);
    writer.commit();
  }

 private:
  using Append = std::function<void(SafetensorsWriter&, std::string const&)>;
  void add(TensorInfo tensor, Append append) {
    tensors_.push_back(std::move(tensor));
    append_.push_back(std::move(append));
  }

  std::vector<TensorInfo> tensors_;
  std::vector<Append> append_;
};

void declare_step(std::string const& name, DiagonalScale const& step, Declared& out) {
  out.vector(name + ".scale", step.scale());
}
void declare_step(std::string const& name, Permutation const& step, Declared& out) {
  out.integers(name + ".permutation", step.source());
}
void declare_step(std::string const& name, BlockRotation const& step, Declared& out) {
  out.stack(name + ".block_rotation", step.rotations());
}
void declare_step(std::string const& name, Hadamard const& step, Declared& out) {
  out.integers(name + ".hadamard", {step.block()});
}
void declare_step(std::string const& name, DenseRotation const& step, Declared& out) {
  out.matrix(name + ".rotation", step.rotation());
}

void declare_layer(LayerTransforms const& layer, std::size_t index, Declared& out) {
  for (detail::ScalePart const& part : detail::scale_parts)
    if (auto const& scale = layer.*part.scale) out.vector(part_name(index, part.name), scale->scale());
  for (detail::InputPart const& part : detail::input_parts) {
    auto const& transform = layer.*part.transform;
    for (std::size_t k = 0; transform && k < transform->steps().size(); ++k)
      std::visit(
          [&](auto const& step) { declare_step(part_name(index, sentence(part.name, '.', k)), step, out); },
          transform->steps()[k]);
  }
  for (detail::ShiftPart const& part : detail::shift_parts)
    if (!(layer.*part.shift).empty()) out.vector(part_name(index, part.name), layer.*part.shift);
  if (layer.key_rotation) out.matrix(part_name(index, "key_rotation"), layer.key_rotation->rotation());
}

/// Reads the tensors of one file and counts those it found.
class Reader {
 public:
  explicit Reader(std::filesystem::path const& path) : file_(path) {}

  [[nodiscard]] bool has(std::string const& name) const { return file_.find(name) != nullptr; }

  /// A tensor that is there: F64 of exactly `shape`; a stack of matrices one below the other.
  [[nodiscard]] RowMatrix<double> values(std::string const& name, std::vector<index_t> const& shape) {
    Tensor tensor = take(name, Dtype::f64, shape);
    std::array<index_t, 2> const flat{shape.size() == 3 ? shape[0] * shape[1] : shape[0], shape.back()};
    if (shape.size() == 3) tensor.shape = flat;
    return file_.read_matrix<double>(tensor);
  }
  [[nodiscard]] Matrices stack(std::string const& name, index_t count, index_t order) {
    RowMatrix<double> const all = values(name, {count, order, order});
    Matrices parts;
    for (index_t i = 0; i < count; ++i) parts.emplace_back(all.middleRows(i * order, order));
    return parts;
  }
  [[nodiscard]] DiagonalScale scale(std::string const& name, index_t channels) {
    RowMatrix<double> const s = values(name, {channels});
    return made<DiagonalScale>(name, [&] { return DiagonalScale({s.data(), s.data() + s.size()}); });
  }
  [[nodiscard]] DenseRotation rotation(std::string const& name, index_t order) {
    RowMatrix<double> R = values(name, {order, order});
    return made<DenseRotation>(name, [&] { return DenseRotation(std::move(R)); });
  }
  [[nodiscard]] std::optional<Transform> transform(std::string const& name, index_t channels) {
    Transform chain(channels);
    while (auto const next = step(sentence(name, '.', chain.steps().size()), channels))
      chain = chain.then(*next);
    if (chain.steps().empty()) return std::nullopt;
    return chain;
  }

  /// Error(format) when the file holds more than was read.
  void finish() const {
    if (file_.tensors().size() != found_)
      fail(Kind::format, file_.path().string(), ": ", file_.tensors().size(), " tensors, ", found_,
           " of which are rotations of this model (R1, model.layers.i.self_attn.R2, parts of a layer)");
  }

 private:
  [[nodiscard]] Tensor take(std::string const& name, Dtype dtype, std::vector<index_t> const& shape) {
    Tensor const* const tensor = file_.find(name);
    if (tensor == nullptr) fail(Kind::format, file_.path().string(), ": there is no tensor '", name, "'");
    if (tensor->dtype != dtype || !std::ranges::equal(tensor->shape, shape)) {
      std::string wanted;
      for (index_t const size : shape) wanted += sentence(wanted.empty() ? "" : " x ", size);
      fail(Kind::format, file_.path().string(), ": tensor '", name, "' is ", describe(*tensor), "; ",
           to_string(dtype), " of ", wanted, " is needed");
    }
    ++found_;
    return *tensor;
  }

  /// What a class refuses is, in a file, a malformed tensor.
  template <class Part, class Make>
  [[nodiscard]] Part made(std::string const& name, Make const& make) const {
    try {
      return make();
    } catch (InvalidArgument const& refused) {
      fail(Kind::format, file_.path().string(), ": tensor '", name, "': ", refused.what());
    }
  }

  [[nodiscard]] std::optional<Transform::Step> step(std::string const& name, index_t channels) {
    using Step = Transform::Step;
    if (has(name + ".scale")) return scale(name + ".scale", channels);
    if (has(name + ".rotation")) return rotation(name + ".rotation", channels);
    if (std::string const whole = name + ".permutation"; has(whole)) {
      auto const source = file_.read_integers(take(whole, Dtype::i64, {channels}));
      return made<Step>(whole, [&] { return Permutation({source.begin(), source.end()}); });
    }
    if (std::string const whole = name + ".hadamard"; has(whole)) {
      auto const block = file_.read_integers(take(whole, Dtype::i64, {1}));
      return made<Step>(whole, [&] { return Hadamard(channels, block.front()); });
    }
    if (std::string const whole = name + ".block_rotation"; has(whole)) return blocks(whole, channels);
    return std::nullopt;
  }

  [[nodiscard]] Transform::Step blocks(std::string const& name, index_t channels) {
    std::span<index_t const> const shape = file_.find(name)->shape;
    bool const fits = shape.size() == 3 && shape[1] >= 1 && channels % shape[1] == 0 &&
                      (shape[0] == 1 || shape[0] == channels / shape[1]);
    if (!fits)
      fail(Kind::format, file_.path().string(), ": tensor '", name, "' is ", describe(*file_.find(name)),
           "; F64 of 1 or ", channels, " / block times block x block is needed, block dividing ", channels);
    Matrices parts = stack(name, shape[0], shape[1]);
    return made<Transform::Step>(name, [&] {
      return parts.size() == 1 ? BlockRotation(channels, std::move(parts.front()))
                               : BlockRotation(std::move(parts));
    });
  }

  SafetensorsFile file_;
  std::size_t found_ = 0;
};

/// The parts of one layer; true when there is any.
bool read_layer(Reader& in, std::size_t index, ModelConfig const& config, LayerTransforms& layer) {
  bool any = false;
  for (detail::ScalePart const& part : detail::scale_parts)
    if (std::string const name = part_name(index, part.name); in.has(name)) {
      layer.*part.scale = in.scale(name, detail::extent_of(config, part.channels));
      any = true;
    }
  for (detail::InputPart const& part : detail::input_parts) {
    layer.*part.transform =
        in.transform(part_name(index, part.name), detail::extent_of(config, part.channels));
    any = any || layer.*part.transform;
  }
  for (detail::ShiftPart const& part : detail::shift_parts)
    if (std::string const name = part_name(index, part.name); in.has(name)) {
      RowMatrix<double> const shift = in.values(name, {detail::extent_of(config, part.channels)});
      (layer.*part.shift).assign(shift.data(), shift.data() + shift.size());
      any = true;
    }
  if (std::string const name = part_name(index, "key_rotation"); in.has(name)) {
    layer.key_rotation = in.rotation(name, config.head_dim);
    any = true;
  }
  return any;
}

}  // namespace

void save_rotations(Rotations const& rotations, std::filesystem::path const& file,
                    std::map<std::string, std::string> const& metadata) {
  Declared out;
  if (rotations.r1.size() != 0) out.matrix("R1", rotations.r1);
  for (std::size_t layer = 0; layer < rotations.r2.size(); ++layer) {
    auto const& heads = rotations.r2[layer];
    require(!heads.empty(), "[save_rotations] layer ", layer, " has no R2: every layer or none needs them");
    out.stack(r2_name(layer), heads);
  }
  for (std::size_t layer = 0; layer < rotations.layers.size(); ++layer)
    declare_layer(rotations.layers[layer], layer, out);
  out.write(file, metadata);
}

Rotations load_rotations(std::filesystem::path const& path, ModelConfig const& config) {
  Reader in(path);
  Rotations rotations;
  auto const layers = static_cast<std::size_t>(config.layers);
  if (in.has("R1")) rotations.r1 = in.values("R1", {config.hidden, config.hidden});
  if (in.has(r2_name(0)))
    for (std::size_t layer = 0; layer < layers; ++layer)
      rotations.r2.push_back(in.stack(r2_name(layer), config.kv_heads, config.head_dim));
  rotations.layers.resize(layers);
  bool any = false;
  for (std::size_t layer = 0; layer < layers; ++layer)
    if (read_layer(in, layer, config, rotations.layers[layer])) any = true;
  if (!any) rotations.layers.clear();
  in.finish();
  rotations.validate(config);
  return rotations;
}

}  // namespace dartquant
