// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/model/quantized_folder.hpp>
#include <dartquant/transform/rotation.hpp>

#include "model/models.hpp"

using namespace dartquant;
using namespace dartquant::test;

namespace {

/// How much the peak of resident memory, mapped pages included, lies above what the process had before; in
/// bytes.
double growth(std::function<void()> const& job) {
  pid_t const child = ::fork();
  if (child == 0) {
    try {
      job();
      ::_exit(0);
    } catch (...) {
      ::_exit(1);
    }
  }
  pid_t const idle = ::fork();
  if (idle == 0) ::_exit(0);
  int status = 0;
  rusage usage{}, nothing{};
  REQUIRE(::wait4(child, &status, 0, &usage) == child);
  REQUIRE(status == 0);
  REQUIRE(::wait4(idle, &status, 0, &nothing) == idle);
  return 1024.0 * static_cast<double>(usage.ru_maxrss - nothing.ru_maxrss);
}

}  // namespace

TEST_CASE("conversion holds a few tensors of one layer, never the checkpoint", "[fold][folder][memory]") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  WARN("skipped: no meaningful peak memory under a sanitizer");
  return;
#endif
  TemporaryFolder const folder;
  SyntheticModel shape{.hidden = 256,
                       .intermediate = 1024,
                       .layers = 16,
                       .heads = 8,
                       .kv_heads = 8,
                       .head_dim = 32,
                       .vocabulary = 512,
                       .equal_layers = true,
                       .dtype = Dtype::bf16};
  Model const model = Model::open(write_synthetic(folder / "m", shape));
  double const layer = 2.0 * static_cast<double>(model.config().layer_parameters());  // 2.1 MB of 34
  Cpu const cpu = Cpu(1).with_kernels(compiled_kernels());
  Rotations rotations;
  rotations.r1 = random_hadamard(256, 1);
  double const folding = growth([&] {
    static_cast<void>(fold(cpu, model, rotations, folder / "folded", {.rotations = {.r1 = true}}));
  });
  // The program and its buffers take 9 to 14 MB of their own, most where other work delays the thread that
  // reads back; the whole checkpoint, 34 MB, would not fit beside them.
  constexpr double own = 16e6;
  CHECK(folding < 4 * layer + own);
  double const packing = growth([&] {
    QuantizedFolderOptions options;
    options.rotations = {.r1 = true};
    static_cast<void>(write_quantized(cpu, model, rotations, folder / "packed", options));
  });
  CHECK(packing < 4 * layer + own);
}
