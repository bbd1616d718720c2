// SPDX-License-Identifier: Apache-2.0
// Converting a checkpoint: peak memory and speed beside a plain copy of the same files in the same run.
//   bench_convert FOLDER [hidden intermediate layers vocabulary threads]
// FOLDER is made, filled (2 GB with the default sizes: 2048 5632 16 32000) and removed. Every job runs in a
// process of its own, three times for the median (the last one once), and finds its input on the disk, not in
// the system's cache. Jobs: copy (read, write, fsync); the same weights in another type; gains folded, type
// kept; GGUF; 4-bit native; R1 and R2 folded, with the FP64 products that this needs at the speed of one
// large product measured here.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include <dartquant/core/compiled_kernels.hpp>
#include <dartquant/dartquant.hpp>

namespace {

namespace fs = std::filesystem;
using namespace dartquant;
using Clock = std::chrono::steady_clock;

struct Sizes {
  index_t hidden = 2048, intermediate = 5632, layers = 16, vocabulary = 32000;
  int threads = 2;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::uint64_t bytes_in(fs::path const& folder) {
  std::uint64_t bytes = 0;
  for (fs::directory_entry const& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") bytes += entry.file_size();
  return bytes;
}

/// Random bfloat16 of a plausible size, from a small table: what they are does not matter here.
void write_checkpoint(fs::path const& folder, Sizes const& sizes) {
  fs::create_directories(folder);
  index_t const heads = sizes.hidden / 128;
  std::ofstream(folder / "config.json")
      << R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"silu","rms_norm_eps":1e-5,)"
      << R"("torch_dtype":"bfloat16","tie_word_embeddings":false,"max_position_embeddings":2048,"hidden_size":)"
      << sizes.hidden << R"(,"intermediate_size":)" << sizes.intermediate << R"(,"num_hidden_layers":)"
      << sizes.layers << R"(,"num_attention_heads":)" << heads << R"(,"num_key_value_heads":)" << heads
      << R"(,"vocab_size":)" << sizes.vocabulary << "}";
  std::ifstream file(folder / "config.json");
  std::string const text{std::istreambuf_iterator<char>(file), {}};
  ModelConfig const config = parse_config(text);
  std::vector<TensorInfo> const tensors = expected_tensors(family_of(config.architecture), config);
  Philox const random(1);
  std::vector<BFloat16> table(std::size_t{1} << 20);
  for (std::size_t i = 0; i < table.size(); ++i)
    table[i] = to_bfloat16(static_cast<float>(0.02 * random.normal(i)));
  CheckpointWriter writer(folder, tensors);
  for (TensorInfo const& tensor : tensors) {
    std::uint64_t left = byte_size(tensor);
    while (left > 0) {
      std::size_t const part = std::min<std::uint64_t>(left, table.size() * 2);
      writer.append_bytes(tensor.name, std::as_bytes(std::span(table)).first(part));
      left -= part;
    }
  }
  writer.commit();
}

/// Takes the files out of the system's cache.
void forget_files(fs::path const& folder) {
  for (fs::directory_entry const& entry : fs::directory_iterator(folder)) {
    int const file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    ::fdatasync(file);
    if (file < 0 || ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) != 0)
      throw std::runtime_error(entry.path().string() + " stays in the system's cache");
    ::close(file);
  }
}

void copy_checkpoint(fs::path const& from, fs::path const& to) {
  fs::create_directories(to);
  for (fs::directory_entry const& entry : fs::directory_iterator(from))
    copy_file_atomically(entry.path(), to / entry.path().filename());
}

/// FP64 operations per second of one large product.
double product_speed(Cpu const& cpu) {
  constexpr index_t n = 1024;
  RowMatrix<double> const A = RowMatrix<double>::Ones(n, n);
  RowMatrix<double> C(n, n);
  double best = 0;
  for (int run = 0; run < 3; ++run) {
    auto const start = Clock::now();
    cpu.gemm<double>(1.0, A, Op::none, A, Op::none, 0.0, C);
    best = std::max(best, 2.0 * n * n * n / seconds_since(start));
  }
  return best;
}

struct Measured {
  double seconds = 0, peak_mb = 0;
};

/// Runs the job in a child process. Peak: resident memory, mapped pages included.
Measured in_child(std::function<void()> const& job) {
  auto const start = Clock::now();
  pid_t const child = ::fork();
  if (child == 0) {
    try {
      job();
      ::_exit(0);
    } catch (std::exception const& error) {
      std::fprintf(stderr, "bench_convert: %s\n", error.what());
      ::_exit(1);
    }
  }
  int status = 0;
  rusage usage{};
  if (::wait4(child, &status, 0, &usage) != child || status != 0) std::exit(1);
  return {seconds_since(start), static_cast<double>(usage.ru_maxrss) / 1024};
}

void print(char const* what, Measured const& measured, double bytes, double copy_speed) {
  double const speed = bytes / measured.seconds;
  std::printf("%-44s %7.2f s  %7.0f MB/s  %4.0f %% of copy  peak %5.0f MB\n", what, measured.seconds,
              speed / 1e6, 100 * speed / copy_speed, measured.peak_mb);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) try {
  if (count < 2)
    return std::fprintf(stderr,
                        "usage: bench_convert FOLDER [hidden intermediate layers vocabulary threads]\n"),
           2;
  fs::path const root = arguments[1];
  Sizes sizes;
  if (count > 5)
    sizes = {std::atoll(arguments[2]), std::atoll(arguments[3]), std::atoll(arguments[4]),
             std::atoll(arguments[5]), count > 6 ? std::atoi(arguments[6]) : 2};
  write_checkpoint(root / "in", sizes);
  auto const bytes = static_cast<double>(bytes_in(root / "in"));
  Model const model = Model::open(root / "in");
  double const layer = 2.0 * static_cast<double>(model.config().layer_parameters());
  std::printf("%.2f GB, %lld layers of %.0f MB; the bound for peak memory is %.0f MB\n", bytes / 1e9,
              static_cast<long long>(sizes.layers), layer / 1e6, (4 * layer + 300e6) / 1048576);

  auto const job = [&](char const* name, std::function<void(fs::path const&)> const& run, int runs = 3) {
    std::vector<Measured> measured;
    for (int i = 0; i < runs; ++i) {
      forget_files(root / "in");
      measured.push_back(in_child([&] { run(root / name); }));
      fs::remove_all(root / name);
    }
    std::ranges::sort(measured, {}, &Measured::seconds);
    return measured[measured.size() / 2];
  };
  Measured const copied = job("copy", [&](fs::path const& to) { copy_checkpoint(root / "in", to); });
  double const copy_speed = bytes / copied.seconds;
  print("copy", copied, bytes, copy_speed);
  // Made in the process of the job: threads do not outlive a fork.
  auto const machine = [&] { return Cpu(sizes.threads).with_kernels(compiled_kernels()); };
  auto const folded = [&](RotationSet set, std::optional<Dtype> dtype, Rotations const& rotations) {
    return [&, set, dtype](fs::path const& to) {
      FoldOptions options;
      options.rotations = set;
      options.dtype = dtype;
      static_cast<void>(fold(machine(), model, rotations, to, options));
    };
  };
  Rotations const none;
  print("gains folded, bf16", job("gains", folded({}, std::nullopt, none)), bytes, copy_speed);
  print("gains folded, to f16", job("f16", folded({}, Dtype::f16, none)), bytes, copy_speed);
  print("GGUF, f16",
        job("model.gguf",
            [&](fs::path const& to) {
              FoldOptions options;
              options.rotations = {};
              options.dtype = Dtype::f16;
              options.format = FoldFormat::gguf;
              static_cast<void>(fold(machine(), model, none, to, options));
            }),
        bytes, copy_speed);
  print("4-bit native, groups of 128",
        job("native",
            [&](fs::path const& to) {
              QuantizedFolderOptions options;
              options.rotations = {};
              options.quantization.weight_group = 128;
              options.quantization.weight_clip = ClipSearch::none;
              static_cast<void>(write_quantized(machine(), model, none, to, options));
            }),
        bytes, copy_speed);
  Rotations rotations;
  rotations.r1 = random_hadamard(sizes.hidden, 1);
  rotations.r2.assign(static_cast<std::size_t>(sizes.layers),
                      std::vector<RowMatrix<double>>(static_cast<std::size_t>(model.config().kv_heads),
                                                     random_hadamard(model.config().head_dim, 2)));
  Measured const rotated = job("r1r2", folded({.r1 = true, .r2 = true}, std::nullopt, rotations), 1);
  print("R1 and R2 folded in FP64, bf16", rotated, bytes, copy_speed);
  double const operations = 2.0 * static_cast<double>(sizes.hidden) * bytes / 2;
  double const ceiling = operations / product_speed(machine());
  std::printf("  its FP64 products alone need %.1f s here: %.0f %% of the time\n", ceiling,
              100 * ceiling / rotated.seconds);
  fs::remove_all(root);
  return 0;
} catch (std::exception const& error) {
  std::fprintf(stderr, "bench_convert: %s\n", error.what());
  return 1;
}
