// SPDX-License-Identifier: Apache-2.0
// The primitives of Gpu on a GPU.
#include "cuda/gpu_cases.hpp"
