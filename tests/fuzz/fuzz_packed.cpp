// SPDX-License-Identifier: Apache-2.0
#include <string>

#include <dartquant/model/quantized_folder.hpp>

#include "input_file.hpp"
#include "model/quantized_weights.hpp"
#include "small_rotations.hpp"

using namespace dartquant;

/// The quantization_config of a folder of packed weights, both formats.
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  static ModelConfig const config = fuzz::small_config();
  return fuzz::refuse_or_accept([&] {
    std::string text(reinterpret_cast<char const*>(bytes), size);
    std::string const quantization = detail::take_quantization(text, "config.json");
    if (!quantization.empty()) (void)detail::read_quantization("no folder", quantization, config);
  });
}
