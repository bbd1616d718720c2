#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds for the GPU of this machine, runs all tests that need it, the sanitizers and all benchmarks; under 10 minutes on one
# card. Leaves JSON files, logs and table.md (for docs/results.md) in the output folder.
#   benchmarks/gpu/run_all.sh [--quick] [--skip-sanitizers] [--prebuilt FOLDER] [--output FOLDER]
# --prebuilt takes the programs from a build folder that another machine filled for this card (nodes of clusters often have no
# compiler): cmake -B FOLDER -DDARTQUANT_ENABLE_CUDA=ON -DDARTQUANT_BUILD_GPU_BENCHMARKS=ON -DCMAKE_CUDA_ARCHITECTURES=90a-real ...,
# then cmake --build FOLDER --target test_cuda_device gpu_benchmarks gpu_table.
# Exit codes: 0 all well, 1 a test, a sanitizer or a benchmark failed, 2 wrong options, 3 nothing to measure here.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

usage() { sed -n '3,10s/^# \{0,1\}//p' "$0"; }
quick=() sanitize=yes prebuilt='' output=$root/build/gpu-results
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=(--quick) ;;
    --skip-sanitizers) sanitize=no ;;
    --output | --prebuilt)
      [ $# -ge 2 ] || { echo "run_all.sh: $1 needs a folder" >&2; exit 2; }
      if [ "$1" = --output ]; then output=$2; else prebuilt=$2; fi
      shift ;;
    --help | -h) usage; exit 0 ;;
    *)
      echo "run_all.sh: unknown option $1" >&2
      usage >&2
      exit 2 ;;
  esac
  shift
done

card=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2> /dev/null | head -n 1)
if [ -z "$card" ]; then
  echo "run_all.sh: no NVIDIA GPU was found (nvidia-smi lists none), so there is nothing to measure here" >&2
  exit 3
fi
[ -n "$prebuilt" ] || command -v nvcc > /dev/null || { echo "run_all.sh: nvcc is not on the PATH; add the bin folder of the CUDA toolkit" >&2; exit 3; }
name=${card%,*}
architecture=${card##*, }
architecture=${architecture/./}
[ "$architecture" != 90 ] || architecture=90a
if [ "${architecture%a}" -lt 75 ]; then
  echo "run_all.sh: $name has compute capability ${card##*, }; 7.5 and newer are supported" >&2
  exit 3
fi
echo "== $name, sm_$architecture"

build=${prebuilt:-$root/build/gpu-$architecture}
if [ ! -x "$build/tests/test_cuda_device" ] && [ -n "$prebuilt" ]; then
  echo "run_all.sh: $prebuilt has no tests/test_cuda_device: build the targets test_cuda_device, gpu_benchmarks and gpu_table there" >&2
  exit 2
fi
mkdir -p "$output"
rm -f "$output"/*.json "$output"/*.log "$output"/table.md
failed=()
# step NAME SECONDS COMMAND ...: runs with a limit of time, keeps the output, remembers what failed.
step() {
  local what=$1 limit=$2 code
  shift 2
  echo "-- $what"
  timeout "$limit" "$@" > "$output/$what.log" 2>&1
  code=$?
  [ $code -eq 0 ] && return 0
  if [ $code -eq 124 ]; then echo "   not finished after $limit s"; else echo "   failed with code $code"; fi
  tail -n 15 "$output/$what.log" | sed 's/^/   /'
  failed+=("$what")
  return 1
}

if [ -z "$prebuilt" ]; then
  step configure 120 cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDARTQUANT_ENABLE_CUDA=ON \
    -DDARTQUANT_BUILD_GPU_BENCHMARKS=ON -DDARTQUANT_BUILD_PROGRAM=OFF -DDARTQUANT_TEST_FOLDERS=cuda \
    "-DCMAKE_CUDA_ARCHITECTURES=$architecture-real" || exit 1
  step build 600 cmake --build "$build" --target test_cuda_device gpu_benchmarks gpu_table --parallel "$(nproc)" || exit 1
fi

step test_cuda_device 120 "$build/tests/test_cuda_device"
if [ $sanitize = yes ]; then
  if command -v compute-sanitizer > /dev/null; then
    # Side by side: most of their time goes into instrumenting code, on the CPU. NVIDIA's own kernels trip two of the tools:
    # cuSOLVER's potrf reads what nobody wrote, others meet at barriers in part.
    running=()
    for tool in memcheck racecheck initcheck synccheck; do
      case $tool in
        memcheck) kernels=() ;;
        initcheck) kernels=(--kernel-name-exclude kns=potrf) ;;
        *) kernels=(--kernel-name kns=body_kernel) ;;
      esac
      (step "$tool" 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "${kernels[@]}" "$build/tests/test_cuda_device" \
        "${SANITIZED_TESTS:-~[large]}") &
      running+=("$tool=$!")
    done
    for tool in "${running[@]}"; do wait "${tool#*=}" || failed+=("${tool%=*}"); done
  else
    echo "-- no compute-sanitizer on the PATH: memcheck, racecheck, initcheck and synccheck did not run"
  fi
fi

results=()
for program in "$build"/benchmarks/gpu/gpu_bench_ceilings "$build"/benchmarks/gpu/gpu_bench_*; do
  what=${program##*/gpu_}
  case $what in *.*) continue ;; esac
  if [ ! -x "$program" ] || [ -e "$output/$what.json" ]; then continue; fi
  options=(--json "$output/$what.json")
  [ "$what" = bench_ceilings ] || options+=(--ceilings "$output/bench_ceilings.json")
  step "$what" 150 "$program" "${options[@]}" "${quick[@]}" && results+=("$output/$what.json")
done
if [ ${#results[@]} -gt 0 ]; then
  "$build/benchmarks/gpu/gpu_table" "${results[@]}" > "$output/table.md" || failed+=(table)
fi

echo "== results: $output/table.md"
if [ ${#failed[@]} -gt 0 ]; then
  echo "== failed: ${failed[*]}"
  exit 1
fi
echo "== all passed"
