#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds and runs every test: ./test.sh [preset ...]   (presets: release debug clang asan-ubsan tsan native aarch64 cuda fuzz)
#   ./test.sh --interop     the program against transformers and other readers, in a Python environment that it sets up
set -euo pipefail
cd "$(dirname "$0")"

if [ "${1:-}" = --interop ]; then
  bash cmake/install-packages.sh python3-venv
  cmake --preset release > /dev/null
  cmake --build --preset release --target dartquant_program
  venv=$(realpath -m "${DARTQUANT_INTEROP_VENV:-build/interop-venv}")
  tests/interop/setup.sh "$venv" || echo "interop: some packages are missing; the tests that need them are skipped"
  exec "$venv/bin/python" -m pytest tests/interop -q -rs -p no:cacheprovider
fi

if [ $# -eq 0 ]; then
  set -- release asan-ubsan aarch64
  if command -v nvcc > /dev/null; then
    set -- "$@" cuda
  else
    echo "no nvcc here: the CUDA machine is not built (its kernels still run on the CPU in the tests)"
  fi
fi
extra=()
case " $* " in *" clang "*) extra+=(clang) ;; esac
case " $* " in *" fuzz "*) extra+=(clang libclang-rt-14-dev) ;; esac
case " $* " in *" aarch64 "*) extra+=(g++-aarch64-linux-gnu qemu-user) ;; esac
bash cmake/install-packages.sh ccache "${extra[@]}"

# The presets and the tests of the package compile many files of the library alike: each is compiled once.
export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1

for preset in "$@"; do
  echo "== $preset: configure and build"
  cmake --preset "$preset" -DDARTQUANT_UNITY_BUILD=ON > /dev/null
  cmake --build --preset "$preset"
  echo "== $preset: test"
  ctest --preset "$preset" --parallel "$(nproc)"
done
