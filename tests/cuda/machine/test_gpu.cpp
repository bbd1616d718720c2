// SPDX-License-Identifier: Apache-2.0
// The primitives of Gpu on a device that is the host.
#include "cuda/gpu_cases.hpp"
