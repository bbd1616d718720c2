#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds and runs every test: ./test.sh [preset | interop ...]
#   presets: release debug clang asan-ubsan tsan native aarch64 cuda fuzz
#   interop (or --interop): the program of the release build against transformers and other readers, in a Python environment that
#   it sets up. A package that cannot be had is said, and its tests are skipped; $DARTQUANT_INTEROP_VENV names another place for it.
set -euo pipefail
cd "$(dirname "$0")"

interop() {
  cmake --preset release -DDARTQUANT_UNITY_BUILD=ON > /dev/null
  cmake --build --preset release --target dartquant_program
  local venv
  venv=$(realpath -m "${DARTQUANT_INTEROP_VENV:-build/interop-venv}")
  tests/interop/setup.sh "$venv" || echo "interop: some packages are missing; the tests that need them are skipped"
  if ! "$venv/bin/python" -c 'import pytest, numpy' 2> /dev/null; then
    echo "interop: SKIPPED as a whole: pytest and numpy cannot be installed here"
    return
  fi
  "$venv/bin/python" -m pytest tests/interop -q -rs -p no:cacheprovider || [ $? -eq 5 ]   # 5: every file was skipped
}

if [ $# -eq 0 ]; then
  set -- release asan-ubsan aarch64 fuzz interop
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
case " $* " in *interop*) extra+=(python3-venv) ;; esac
bash cmake/install-packages.sh ccache "${extra[@]}"

# The presets and the tests of the package compile many files of the library alike: each is compiled once.
export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1

for preset in "$@"; do
  echo "== $preset"
  if [ "${preset#--}" = interop ]; then
    interop
    continue
  fi
  cmake --preset "$preset" -DDARTQUANT_UNITY_BUILD=ON > /dev/null
  cmake --build --preset "$preset"
  echo "== $preset: test"
  ctest --preset "$preset" --parallel "$(nproc)"
done
