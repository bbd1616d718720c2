// SPDX-License-Identifier: Apache-2.0
#include "io/file_hash.hpp"

#include <unistd.h>
#include <cerrno>

#include <cstddef>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <dartquant/core/error.hpp>

#include "io/posix.hpp"

namespace dartquant::detail {
namespace {

std::string hexadecimal(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::string text;
  for (unsigned char const byte : canonical.digest) {
    constexpr char digits[] = "0123456789abcdef";
    text.push_back(digits[byte >> 4]);
    text.push_back(digits[byte & 15]);
  }
  return text;
}

}  // namespace

std::string file_hash(std::filesystem::path const& path) {
  auto const [file, status] = open_to_read(path, "file_hash");
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (;;) {
    ssize_t const got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(Error::Kind::io, "[file_hash] ", path.string(), ": cannot be read: ", reason(errno));
    if (got == 0) return hexadecimal(XXH3_128bits_digest(&state));
    XXH3_128bits_update(&state, buffer.data(), static_cast<std::size_t>(got));
  }
}

}  // namespace dartquant::detail
