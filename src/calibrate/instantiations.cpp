// SPDX-License-Identifier: Apache-2.0
#define DARTQUANT_COMPILED extern
#include <dartquant/transform/hadamard.hpp>
#include <dartquant/transform/rotation.hpp>

#undef DARTQUANT_COMPILED
#define DARTQUANT_COMPILED  // the copies that all others refer to
#include <dartquant/calibrate/instantiations.hpp>
#include <dartquant/calibrate/polar_factor.hpp>
#include <dartquant/calibrate/qr_orth.hpp>
