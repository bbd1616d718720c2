// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include <dartquant/io/gguf.hpp>
#include <dartquant/io/tokenizer.hpp>
#include <dartquant/model/architecture.hpp>

#include "input_file.hpp"

using namespace dartquant;

namespace {

/// Every range must lie in the file, every name find its tensor.
void read_tensors(std::filesystem::path const& path, std::size_t size) {
  GgufFile const file(path);
  std::size_t total = 0;
  for (Tensor const& tensor : file.tensors()) {
    total += tensor.bytes.size();
    if (file.find(tensor.name) != &tensor) std::abort();
    if (tensor.shape.size() <= 2) static_cast<void>(file.read_matrix<float>(tensor, NonFinite::allow));
  }
  if (total >= size) std::abort();
}

/// Opens the file as a model and runs its tokenizer.
void read_model(std::filesystem::path const& path) {
  Model const model = Model::open(path);
  if (!model.has_tokenizer()) return;
  Tokenizer const tokenizer = Tokenizer::parse(model.tokenizer_text().value());
  static_cast<void>(tokenizer.decode(tokenizer.encode(" ab<s> \xC3\xBC\xE6\x97\xA5 12\n")));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  fuzz::InputFile const input(bytes, size);
  fuzz::refuse_or_accept([&] { read_tensors(input.path(), size); });
  try {
    read_model(input.path());
  } catch (Error const&) {  // such as a folder named by no GGUF file
  }
  return 0;
}
