// SPDX-License-Identifier: Apache-2.0
#pragma once

// The same product Y [tokens, out] = X [tokens, in] W^T by the libraries that an engineer would otherwise
// take. They run on threads of their own: call them while no PinnedThreads lives. Seconds are those of a
// processor, shared out over the threads.

#include <cstdint>

namespace dartquant::bench {

/// OpenBLAS sgemm and dgemm, seconds of a call now; 0 where it is not built in.
double sgemm_seconds(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads);
double dgemm_seconds(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads);

/// oneDNN matmul of 8-bit integers to float with weights in its own order, seconds per product now over
/// weights that fill `bytes` or more in turn; activations signed or unsigned, whatever is faster. 0 where it
/// is not built in.
double onednn_seconds(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads,
                      std::int64_t bytes);

/// Names and versions, and the instruction set that oneDNN may use.
char const* openblas_name();
char const* onednn_name();

}  // namespace dartquant::bench
