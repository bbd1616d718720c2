// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include <dartquant/io/npy.hpp>

#include "input_file.hpp"

using namespace dartquant;

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  fuzz::InputFile const input(bytes, size);
  fuzz::refuse_or_accept([&] {
    if (read_npy_integers(input.path()).size() > size) std::abort();
  });
  return fuzz::refuse_or_accept([&] {
    if (static_cast<std::size_t>(read_npy_matrix(input.path()).size()) > size) std::abort();
  });
}
