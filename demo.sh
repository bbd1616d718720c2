#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds the program and runs the main job on the small model in examples/data: ./demo.sh
set -euo pipefail
cd "$(dirname "$0")"

model=examples/data/tiny-llama
output=build/demo-output
program=build/demo/bin/dartquant

step() { printf '\n== %s\n' "$1"; }
run() { printf '$ dartquant %s\n' "$*"; "$program" "$@"; }

bash cmake/install-packages.sh
step "Build the program for this machine in build/demo"
cmake --preset native -B build/demo -DDARTQUANT_BUILD_TESTS=OFF -DDARTQUANT_BUILD_BENCHMARKS=OFF -DDARTQUANT_INSTALL=OFF -DDARTQUANT_UNITY_BUILD=ON \
  -DCMAKE_COMPILE_WARNING_AS_ERROR=OFF > /dev/null
cmake --build build/demo --target dartquant_program
mkdir -p "$output"
started=$SECONDS

step "1. What the model looks like: the inputs of its linear layers have outliers, which a 4-bit grid suffers from"
run inspect $model --text $model/calibration.txt --samples 16 --brief

step "2. What rotations gain at 4 bits: no rotation, random Hadamard, and two learned ones, three seeds each"
run compare $model --calibration $model/calibration.txt --text $model/eval.txt --windows 96 \
  --methods rtn,quarot,dartquant,centred --rotations r1,r2,r3,r4 --scheme w4a4kv4,w16a4 --seeds 3 \
  --json $output/comparison.json --html $output/report.html

step "3. Learn the rotations R1 and R2 and keep them"
run calibrate $model --text $model/calibration.txt -o $output/rotations.safetensors

step "4. Fold them into the weights: a checkpoint for any Hugging Face reader, checked to compute the same"
run fold $model --rotations $output/rotations.safetensors --dtype f32 -o $output/tiny-llama-folded

step "5. Measure the folded checkpoint against the original: the same perplexity, no divergence"
run eval $output/tiny-llama-folded --original $model --text $model/eval.txt --windows 96

step "Done in $((SECONDS - started)) s after the build. Everything lies in $output:"
printf '  %-24s %s\n' tiny-llama-folded/ "the folded checkpoint" rotations.safetensors "R1 and R2" \
  comparison.json "the table of step 2, every seed" report.html "the same as a page with pictures"
printf 'On your own model: %s compare MODEL --calibration TEXT --text TEXT\n' "$program"
