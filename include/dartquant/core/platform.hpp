// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Marks a function that runs on the host and on a CUDA device; empty for a plain C++ compiler.
#if defined(__CUDACC__)
#define DARTQUANT_HD __host__ __device__
#else
#define DARTQUANT_HD
#endif
