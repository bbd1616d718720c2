#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the Python environment of the interop tests: tests/interop/setup.sh [folder]   (default build/interop-venv)
# PyPI's torch is one file of about 540 MB; the CUDA packages that it names (3 GB) are left out, see cuda_stubs.py.
set -euo pipefail
venv=$(realpath -m "${1:-${DARTQUANT_INTEROP_VENV:-$(dirname "$0")/../../build/interop-venv}}")
cd "$(dirname "$0")"

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
install=("$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --timeout 20 --retries 2)
if ! "${install[@]}" pytest; then
  echo "interop: no package can be installed here"
  exit 1
fi
"${install[@]}" -r requirements.txt || while read -r package; do   # what can be had; tests of the rest are skipped
  "${install[@]}" "$package" || echo "interop: $package cannot be installed"
done < <(grep -v '^#' requirements.txt)
# llama.cpp takes about half an hour of two cores, so it is built only where it is asked for; without it its tests are skipped.
if [ -n "${DARTQUANT_INTEROP_LLAMA:-}" ]; then
  "${install[@]}" -r requirements-llama.txt || echo "interop: llama-cpp-python cannot be built"
fi
"$venv/bin/python" cuda_stubs.py
"$venv/bin/python" -W ignore -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
