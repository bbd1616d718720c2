// SPDX-License-Identifier: Apache-2.0
#define DARTQUANT_COMPILED  // the copies that all others refer to
#include <dartquant/core/instantiations.hpp>
