// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

#include <charconv>

#include <dartquant/core/error.hpp>

namespace dartquant::program {
namespace {

/// A GPU if there is one that works with this program.
std::optional<Device> first_gpu() {
  try {
    return open_gpu(0);
  } catch (Error const& error) {
    if (error.kind() != Error::Kind::unsupported) throw;
    return std::nullopt;
  }
}

}  // namespace

std::optional<Device> open_device(std::string const& name) {
  if (name == "cpu") return std::nullopt;
  if (name == "auto") return first_gpu();
  if (name == "cuda") return open_gpu(0);
  constexpr std::string_view numbered = "cuda:";
  int number = -1;
  if (name.starts_with(numbered)) {
    char const *const first = name.data() + numbered.size(), *const last = name.data() + name.size();
    auto const [end, error] = std::from_chars(first, last, number);
    if (error != std::errc() || end != last) number = -1;
  }
  detail::require(number >= 0, "--device ", name, ": it is cpu, cuda, cuda:N or auto");
  return open_gpu(number);
}

}  // namespace dartquant::program
