// SPDX-License-Identifier: Apache-2.0
// The main job as a library call: open a checkpoint folder, learn R1 and R2 from token ids, write the folded
// checkpoint, make sure that it computes the same. Usage: example_03_fold_checkpoint MODEL [OUTPUT]
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <unistd.h>

#include <dartquant/dartquant.hpp>

namespace dq = dartquant;

namespace {

void fold_checkpoint(std::filesystem::path const& folder, std::filesystem::path const& output) {
  dq::Cpu const cpu;
  dq::Model const model = dq::Model::open(folder);  // maps the weights, reads none
  std::ifstream in(folder / "calibration.txt", std::ios::binary);
  std::string const text{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::int32_t> const ids = dq::Tokenizer::load(folder / "tokenizer.json").encode(text);
  dq::TokenWindows const windows = dq::windows_of(ids, dq::calibration_seqlen(model.config()), 32);

  dq::ModelCalibration const found =
      dq::calibrate(cpu, model, windows, {.method = dq::Method::dartquant, .seed = 1});
  std::printf("Whip per channel %.4f -> %.4f, orthogonality %.2f\n", found.whip_before, found.whip_after,
              found.r1_orthogonality);

  dq::FoldOptions options;
  options.dtype = dq::Dtype::f32;
  dq::FoldReport const done = dq::fold(cpu, model, found.rotations, output, options);
  dq::TokenWindows const few = windows.topRows(2);
  dq::FoldCheck const check = dq::check_fold(cpu, model, dq::Model::open(output), few);
  std::printf("%llu bytes in %s; largest logit difference %.1e\n",
              static_cast<unsigned long long>(done.bytes_written), output.c_str(), check.max_error);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) {
    std::printf("usage: %s MODEL [OUTPUT]\n", argv[0]);
    return 2;
  }
  bool const keep = argc > 2;
  std::filesystem::path const output =
      keep ? std::filesystem::path(argv[2])
           : std::filesystem::temp_directory_path() / ("dartquant-folded-" + std::to_string(getpid()));
  fold_checkpoint(argv[1], output);
  if (!keep) std::filesystem::remove_all(output);
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
