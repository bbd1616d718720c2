#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# benchmarks/gpu/run_all.sh without a GPU: options, what it says where there is nothing to measure, and the whole course of a
# run on a machine of stand-ins. Argument: the gpu_table program.
# shellcheck disable=SC2016  # the stand-ins expand their own variables
set -euo pipefail
table=$(realpath "$1")
script=$(cd "$(dirname "$0")/../.." && pwd)/benchmarks/gpu/run_all.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() { echo "FAILED: $1"; exit 1; }
# expect CODE TEXT COMMAND ...: the command ends with that code and says that text.
expect() {
  local code=$1 text=$2 said=0
  shift 2
  "$@" > "$folder/said" 2>&1 || said=$?
  [ "$said" -eq "$code" ] || { cat "$folder/said"; fail "$*: code $said instead of $code"; }
  grep -qF -- "$text" "$folder/said" || { cat "$folder/said"; fail "$*: does not say '$text'"; }
}

expect 0 "run_all.sh [--quick]" "$script" --help
expect 2 "unknown option --fast" "$script" --fast
expect 2 "--output needs a folder" "$script" --output

# A machine of stand-ins: each program is a script.
stand_in() { printf '#!/usr/bin/env bash\n%s\n' "$2" > "$folder/bin/$1"; chmod +x "$folder/bin/$1"; }
mkdir -p "$folder/bin" "$folder/repository/benchmarks/gpu"
cp "$script" "$folder/repository/benchmarks/gpu/"
script=$folder/repository/benchmarks/gpu/run_all.sh
export PATH=$folder/bin:$PATH TABLE=$table LOG=$folder/log
stand_in nvidia-smi 'exit 9'
expect 3 "no NVIDIA GPU was found" "$script"
stand_in nvidia-smi 'echo "NVIDIA Old, 6.1"'
stand_in nvcc ''
expect 3 "NVIDIA Old has compute capability 6.1" "$script"

stand_in nvidia-smi 'echo "NVIDIA H100 80GB HBM3, 9.0"; echo "NVIDIA other, 8.0"'
# cmake -B writes down what it is asked for; --build leaves a test program and two benchmarks.
stand_in cmake '
echo "cmake $*" >> "$LOG"
[ "$1" = --build ] || exit 0
mkdir -p "$2/tests" "$2/benchmarks/gpu"
printf "#!/bin/sh\necho test \$* >> $LOG\nexit ${TEST_CODE:-0}\n" > "$2/tests/test_cuda_device"
for name in ceilings rows; do
  cat > "$2/benchmarks/gpu/gpu_bench_$name" << END
#!/bin/sh
echo "$name \$*" >> $LOG
echo "{\"program\":\"$name\",\"device\":\"H100\",\"figures\":[{\"name\":\"copy\",\"value\":3000,\"unit\":\"GB/s\",\"against\":3100,\"what\":\"ceiling\",\"target\":0.9}]}" > "\$2"
END
done
ln -sf "$TABLE" "$2/benchmarks/gpu/gpu_table"
chmod +x "$2/tests/test_cuda_device" "$2"/benchmarks/gpu/gpu_bench_*'
stand_in compute-sanitizer 'echo "sanitizer $*" >> "$LOG"; exit "${SANITIZER_CODE:-0}"'
expect 0 "== all passed" "$script" --output "$folder/out" --quick
grep -qF -- "-DCMAKE_CUDA_ARCHITECTURES=90a-real" "$folder/log" || fail "the architecture of the first card is built"
for tool in memcheck racecheck initcheck synccheck; do
  grep -q "sanitizer --tool $tool .*test_cuda_device" "$folder/log" || fail "$tool does not run"
done
[ "$(grep -c '^ceilings' "$folder/log")" -eq 1 ] || fail "the ceilings are measured once"
[ "$(grep -n '^ceilings' "$folder/log" | cut -d: -f1)" -lt "$(grep -n '^rows' "$folder/log" | cut -d: -f1)" ] || fail "the ceilings come first"
grep -q "^rows --json $folder/out/bench_rows.json --ceilings $folder/out/bench_ceilings.json --quick" "$folder/log" || fail "options of a benchmark"
diff "$folder/out/table.md" - << 'END' || fail "the table"
### ceilings, on H100

| what | figure | share | target |
|---|---|---|---|
| copy | 3000 GB/s | 0.9677 of ceiling (3100 GB/s) | 0.9000, met |

### rows, on H100

| what | figure | share | target |
|---|---|---|---|
| copy | 3000 GB/s | 0.9677 of ceiling (3100 GB/s) | 0.9000, met |
END

cp -r "$folder/repository/build/gpu-90a" "$folder/elsewhere"
: > "$folder/log"
TEST_CODE=1 expect 1 "== failed: test_cuda_device" "$script" --output "$folder/out" --skip-sanitizers
! grep -q sanitizer "$folder/log" || fail "--skip-sanitizers"

# Programs that another machine built: nothing is compiled.
expect 2 "$folder/empty has no tests/test_cuda_device" "$script" --prebuilt "$folder/empty"
expect 2 "--prebuilt needs a folder" "$script" --prebuilt
rm "$folder/bin/nvcc" "$folder/bin/cmake"
: > "$folder/log"
expect 0 "== all passed" "$script" --prebuilt "$folder/elsewhere" --output "$folder/out"
grep -q "sanitizer --tool initcheck .*--kernel-name-exclude kns=potrf $folder/elsewhere/tests/test_cuda_device" "$folder/log" ||
  fail "initcheck leaves out cuSOLVER's potrf"
! grep -q "^cmake" "$folder/log" || fail "--prebuilt builds nothing"
SANITIZER_CODE=9 expect 1 "== failed: memcheck racecheck initcheck synccheck" "$script" --prebuilt "$folder/elsewhere" --output "$folder/out"

expect 2 "usage: gpu_table" "$table"
echo '{"figures": 3}' > "$folder/bad.json"
expect 1 "is not a file of figures" "$table" "$folder/bad.json"
expect 1 "cannot read" "$table" "$folder/missing.json"
echo "run_all.sh: options, refusals and a run on stand-ins are as they should be"
