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

/// The peak of resident memory of a process that does the job, mapped pages included; in bytes.
double peak(std::function<void()> const& job) {
  pid_t const child = ::fork();
  if (child == 0) {
    try {
      job();
      ::_exit(0);
    } catch (...) {
      ::_exit(1);
    }
  }
  int status = 0;
  rusage usage{};
  REQUIRE(::wait4(child, &status, 0, &usage) == child);
  REQUIRE(status == 0);
  return 1024.0 * static_cast<double>(usage.ru_maxrss);
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
  shape.layers = 2;
  Model const shallow = Model::open(write_synthetic(folder / "shallow", shape));

  // Beside the same job on two layers of the same shape, which takes the code, the buffers and the tensors in
  // work as well: 14 more layers, 29 MB, may cost three at most. Which pages of the program are resident is
  // the kernel's decision and differs by MB from run to run.
  auto const fold_it = [&](Model const& of, char const* to) {
    return peak(
        [&] { static_cast<void>(fold(cpu, of, rotations, folder / to, {.rotations = {.r1 = true}})); });
  };
  double const folding = fold_it(model, "folded") - fold_it(shallow, "shallow-folded");
  CHECK(folding < 3 * layer);
  auto const pack_it = [&](Model const& of, char const* to) {
    return peak([&] {
      QuantizedFolderOptions options;
      options.rotations = {.r1 = true};
      static_cast<void>(write_quantized(cpu, of, rotations, folder / to, options));
    });
  };
  double const packing = pack_it(model, "packed") - pack_it(shallow, "shallow-packed");
  CHECK(packing < 3 * layer);
}
