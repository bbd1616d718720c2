// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <dartquant/core/host_products.hpp>
#include <dartquant/model/learner.hpp>

namespace dartquant::program {

/// A machine beside the CPU, for the large parts of a job.
struct Device {
  std::string name;  ///< such as "NVIDIA H200 (9.0)"
  HostProducts products;
  Learners learners;
};

/// What --device takes, for --help.
inline constexpr std::string_view device_help =
    "cpu, cuda, cuda:N (the GPU number N) or auto (a GPU where there is one): where rotations are learned "
    "and large matrices are multiplied";

/// The machine of such a name; nothing for the CPU. Errors: InvalidArgument for another name or number;
/// Error(unsupported) where the program was built without CUDA, or there is no such device here.
[[nodiscard]] std::optional<Device> open_device(std::string const& name);

/// The GPU of this number: device/cuda.cpp, or device/none.cpp in a program without CUDA. Errors: as above.
[[nodiscard]] Device open_gpu(int number);

}  // namespace dartquant::program
