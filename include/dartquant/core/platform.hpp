// SPDX-License-Identifier: Apache-2.0
#pragma once

/// DARTQUANT_HD marks a function that runs on the host and on a CUDA device; DARTQUANT_DEVICE marks the body
/// of a kernel, a template over the thread that runs it: device code for nvcc, and for a plain C++ compiler a
/// function that a test runs on the CPU. Both are empty for a plain C++ compiler.
#if defined(__CUDACC__)
#define DARTQUANT_HD __host__ __device__
#define DARTQUANT_DEVICE __device__
#else
#define DARTQUANT_HD
#define DARTQUANT_DEVICE
#endif
