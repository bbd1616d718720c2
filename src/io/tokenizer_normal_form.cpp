// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_normal_form.hpp"

#include <cstdlib>
#include <memory>

#include <utf8proc.h>

#include <dartquant/core/error.hpp>

#include "io/tokenizer_utf8.hpp"

namespace dartquant::detail {

std::string to_normal_form(std::string_view text, NormalForm form) {
  if (text.empty()) return {};
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* raw = nullptr;
  utf8proc_ssize_t const size =
      utf8proc_map(reinterpret_cast<utf8proc_uint8_t const*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &raw, static_cast<utf8proc_option_t>(options));
  std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> const mapped(raw, std::free);
  if (size < 0)
    fail(Error::Kind::memory, "[tokenizer] a text of ", text.size(),
         " bytes cannot be normalized: ", utf8proc_errmsg(size));
  return {reinterpret_cast<char const*>(raw), static_cast<std::size_t>(size)};
}

std::string to_lower_case(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  for (std::size_t offset = 0; offset < text.size();) {
    CodePoint const next = code_point_at(text, offset);
    offset += next.bytes;
    if (next.value == 0x130) lower += "i\xCC\x87";  // the only one that becomes two
    else lower += to_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(next.value))));
  }
  return lower;
}

}  // namespace dartquant::detail
