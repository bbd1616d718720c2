// SPDX-License-Identifier: Apache-2.0
// Any text as a tokenizer.json; what it accepts encodes a text and decodes the ids.
#include <string_view>

#include <dartquant/core/error.hpp>
#include <dartquant/io/tokenizer.hpp>

using namespace dartquant;

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  try {
    Tokenizer const tokenizer = Tokenizer::parse({reinterpret_cast<char const*>(data), size});
    auto const ids =
        tokenizer.encode(" a b\t<s>\xC3\x84 \xE6\x97\xA5\xF0\x9F\x91\xA9\xE2\x80\x8D 0123 don't\r\n\n x");
    static_cast<void>(tokenizer.decode(ids));
  } catch (Error const&) {
  }
  return 0;
}
