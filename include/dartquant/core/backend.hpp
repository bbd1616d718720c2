// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include <dartquant/core/view.hpp>

namespace dartquant {

/// Whether a factor of a product is used as stored or transposed.
enum class Op { none, transpose };

/// Which part of a matrix a call reads or writes.
enum class Triangle { lower, upper };

}  // namespace dartquant
