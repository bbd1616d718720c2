// SPDX-License-Identifier: Apache-2.0
#include "written_check.hpp"

#include <algorithm>

#include <dartquant/core/error.hpp>
#include <dartquant/core/random.hpp>

#include "windows.hpp"

namespace dartquant::program {

void add_dtype_flag(CLI::App& command, std::string& name) {
  command.add_option("--dtype", name, "f32, f16 or bf16: type of the written weights; default as in MODEL")
      ->type_name("NAME")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}, CLI::ignore_case));
}

std::optional<Dtype> dtype_of(std::string const& name) {
  if (name.empty()) return std::nullopt;
  std::string upper = name;
  for (char& c : upper)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return parse_dtype(upper);
}

double logit_bound(Model const& written) {
  auto const of = [](Dtype dtype) {
    switch (dtype) {
      case Dtype::q4_0:
        return 0.5;
      case Dtype::q8_0:
      case Dtype::bf16:
        return 0.05;
      case Dtype::f16:
        return 0.01;
      default:
        return 1e-4;
    }
  };
  double bound = 0;
  for (TensorFile const& file : written.checkpoint().files())
    for (Tensor const& tensor : file.tensors()) bound = std::max(bound, of(tensor.dtype));
  // Where two experts are nearly equal, the rounding of the weights may give a token the other one.
  bool const rounded = bound > 1e-4;
  return rounded && written.config().mixture.experts != 0 ? 0.5 : bound;
}

TokenWindows check_windows(Model const& model, TextSource const& source) {
  constexpr index_t count = 2, longest = 256;
  index_t const length = std::min(window_length(model, 0), longest);
  if (source.given()) return first_windows(model, source, length, count);
  Philox const random(0);
  TokenWindows windows(count, length);
  for (index_t i = 0; i < windows.size(); ++i)
    windows.data()[i] = static_cast<std::int32_t>(random.uniform(static_cast<std::uint64_t>(i)) *
                                                  static_cast<double>(model.config().vocabulary));
  return windows;
}

FoldCheck check_written(Cpu const& cpu, Model const& original, ForwardOptions const& options,
                        Model const& written, TokenWindows const& windows) {
  RowMatrix<float> const expected = logits(cpu, original, windows, options),
                         found = logits(cpu, written, windows);
  double const largest = expected.cwiseAbs().maxCoeff(), bound = logit_bound(written);
  FoldCheck const check{static_cast<double>((expected - found).cwiseAbs().maxCoeff()) / largest,
                        windows.size()};
  if (!(check.max_error <= bound))
    detail::fail(Error::Kind::numerics, "the logits of the written checkpoint differ by ", check.max_error,
                 " of the largest, more than ", bound, ": nothing was kept; --dtype f32 loses least");
  return check;
}

std::uint64_t written_bytes(Model const& model, std::optional<Dtype> dtype) {
  std::uint64_t bytes = 0;
  auto const add = [&](Tensor const& tensor) {
    TensorInfo written{"", dtype.value_or(tensor.dtype), {tensor.shape.begin(), tensor.shape.end()}};
    bool const whole = !written.shape.empty() && written.shape.back() % block_elements(written.dtype) == 0;
    if (block_elements(written.dtype) > 1 && (!dtype || !whole || written.shape.size() < 2))
      written.dtype = Dtype::f32;  // at most
    bytes += byte_size(written);
  };
  for (TensorFile const& file : model.checkpoint().files())
    for (Tensor const& tensor : file.tensors()) add(tensor);
  if (model.config().tied_embeddings) add(model.checkpoint().tensor(model.family().embedding));
  return bytes;
}

}  // namespace dartquant::program
