// SPDX-License-Identifier: Apache-2.0
#include <dartquant/core/error.hpp>

#include "../device.hpp"

namespace dartquant::program {

Device open_gpu(int number) {
  detail::fail(Error::Kind::unsupported, "--device cuda:", number,
               ": this program was built without CUDA; build it with -DDARTQUANT_ENABLE_CUDA=ON, or take "
               "--device cpu");
}

}  // namespace dartquant::program
