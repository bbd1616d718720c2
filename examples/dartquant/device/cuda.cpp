// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/gpu.hpp>
#include <dartquant/cuda/host_products.hpp>

#include "../device.hpp"
#include "gpu_learners.hpp"

namespace dartquant::program {

Device open_gpu(int number) {
  cuda::Gpu const gpu(number);
  return {gpu.name(), cuda::host_products(gpu), learners_on(gpu)};
}

}  // namespace dartquant::program
