// SPDX-License-Identifier: Apache-2.0
#define DARTQUANT_COMPILED extern
#include <dartquant/core/cpu.hpp>

#undef DARTQUANT_COMPILED
#define DARTQUANT_COMPILED  // the copies that all others refer to
#include <dartquant/transform/duquant.hpp>
#include <dartquant/transform/transform.hpp>
