#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds and runs every test: ./test.sh [preset ...]   (presets: release debug clang asan-ubsan tsan native aarch64 fuzz)
set -euo pipefail
cd "$(dirname "$0")"

[ $# -gt 0 ] || set -- release asan-ubsan aarch64
extra=()
case " $* " in *" clang "*) extra+=(clang) ;; esac
case " $* " in *" fuzz "*) extra+=(clang libclang-rt-14-dev) ;; esac
case " $* " in *" aarch64 "*) extra+=(g++-aarch64-linux-gnu qemu-user) ;; esac
bash cmake/install-packages.sh "${extra[@]}"

for preset in "$@"; do
  echo "== $preset: configure and build"
  cmake --preset "$preset" > /dev/null
  cmake --build --preset "$preset"
  echo "== $preset: test"
  ctest --preset "$preset" --parallel "$(nproc)"
done
