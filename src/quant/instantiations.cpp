// SPDX-License-Identifier: Apache-2.0
#define DARTQUANT_COMPILED extern
#include <dartquant/core/cpu.hpp>

#undef DARTQUANT_COMPILED
#define DARTQUANT_COMPILED  // the copies that all others refer to
#include <dartquant/quant/gptq.hpp>
#include <dartquant/quant/learned_clip.hpp>
#include <dartquant/quant/matmul.hpp>
#include <dartquant/quant/quantize.hpp>
