// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace dartquant::cuda {

/// How many blocks run a kernel and how much dynamic shared memory each has. The threads of a block are a
/// constant of the kernel (Body::threads) unless the kernel leaves them open.
struct Grid {
  int blocks_x = 1, blocks_y = 1, blocks_z = 1;
  std::size_t shared_bytes = 0;
  int threads = 0;  ///< of a block; 0: Body::threads, which is the most
};

}  // namespace dartquant::cuda
