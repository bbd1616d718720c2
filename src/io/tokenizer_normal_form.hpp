// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

// Unicode's normal forms (Standard Annex 15) and lower case, by utf8proc's tables.
namespace dartquant::detail {

enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// A valid UTF-8 text in that form. Errors: Error(memory).
[[nodiscard]] std::string to_normal_form(std::string_view text, NormalForm form);

/// Every character of a valid UTF-8 text in lower case, whatever stands beside it: a capital sigma at the end
/// of a word becomes an ordinary one, and U+0130 becomes two characters.
[[nodiscard]] std::string to_lower_case(std::string_view text);

}  // namespace dartquant::detail
