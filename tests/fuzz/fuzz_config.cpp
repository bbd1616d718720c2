// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include <dartquant/model/architecture.hpp>

#include "input_file.hpp"

using namespace dartquant;

/// A config that is believed must be one whose sizes can be multiplied.
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  return fuzz::refuse_or_accept([&] {
    ModelConfig const config = parse_config({reinterpret_cast<char const*>(bytes), size}, "config.json");
    if (config.parameters() <= 0 || config.heads % config.kv_heads != 0) std::abort();
    if (config.layers <= 8) (void)expected_tensors(family_of(config.architecture), config);
  });
}
