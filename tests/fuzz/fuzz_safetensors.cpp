// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include <dartquant/io/safetensors.hpp>

#include "input_file.hpp"

using namespace dartquant;

/// Opens the file and reads all it describes; every range must lie in the file, every name find its tensor.
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  fuzz::InputFile const input(bytes, size);
  return fuzz::refuse_or_accept([&] {
    SafetensorsFile const file(input.path());
    std::size_t total = 0;
    for (Tensor const& tensor : file.tensors()) {
      total += tensor.bytes.size();
      if (file.find(tensor.name) != &tensor) std::abort();
      try {
        if (tensor.dtype <= Dtype::bf16) (void)file.read_matrix<float>(tensor, NonFinite::allow);
        else (void)file.read_integers(tensor);
      } catch (Error const&) {
      }
    }
    if (total >= size) std::abort();
  });
}
