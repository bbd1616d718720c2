// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include <dartquant/model/rotations.hpp>

#include "input_file.hpp"
#include "small_rotations.hpp"

using namespace dartquant;

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  static ModelConfig const config = fuzz::small_config();
  fuzz::InputFile const input(bytes, size);
  return fuzz::refuse_or_accept([&] { load_rotations(input.path(), config).validate(config); });
}
