// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file, then as a model: only Error may leave, and nothing outside of the file is read.
#include <dartquant/core/error.hpp>
#include <dartquant/io/gguf.hpp>
#include <dartquant/io/tokenizer.hpp>
#include <dartquant/model/architecture.hpp>

#include "input_file.hpp"

using namespace dartquant;

namespace {

void read_all(std::filesystem::path const& path) {
  GgufFile const file(path);
  for (Tensor const& tensor : file.tensors())
    if (tensor.shape.size() <= 2) static_cast<void>(file.read_matrix<float>(tensor, NonFinite::allow));
}

void read_model(std::filesystem::path const& path) {
  Model const model = Model::open(path);
  if (!model.has_tokenizer()) return;
  Tokenizer const tokenizer = Tokenizer::parse(model.tokenizer_text().value());
  static_cast<void>(tokenizer.encode("Once upon a time, \xC3\xBC\xE6\x97\xA5 1234\n"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz::InputFile const file(data, size);
  for (auto* const use : {read_all, read_model}) try {
      use(file.path());
    } catch (Error const&) {
    }
  return 0;
}
