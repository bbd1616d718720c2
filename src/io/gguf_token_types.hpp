// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace dartquant::detail {

/// Numbers of tokenizer.ggml.token_type, as in SentencePiece.
enum class TokenType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

}  // namespace dartquant::detail
