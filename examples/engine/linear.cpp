// SPDX-License-Identifier: Apache-2.0
#include "linear.hpp"

#include <atomic>
#include <functional>
#include <stdexcept>
#include <string>

namespace engine {
namespace {

void require(dartquant_status status, char const* what) {
  if (status == 0) return;
  throw std::runtime_error(std::string(what) + ": " +
                           dartquant_argument_text(dartquant_status_argument(status)) + " " +
                           dartquant_reason_text(dartquant_status_reason(status)));
}

/// Runs `call(workspace, part)` on every thread, each with a workspace of its own, and gives the memory back.
void run_parts(Engine& engine, std::size_t workspace_bytes, char const* what,
               std::function<dartquant_status(void*, int)> const& call) {
  std::size_t const mark = engine.arena.mark();
  std::vector<void*> workspaces;
  for (int part = 0; part < engine.workers.count(); ++part)
    workspaces.push_back(engine.arena.take<std::byte>(static_cast<std::int64_t>(workspace_bytes)));
  std::atomic<dartquant_status> worst = 0;
  engine.workers.run([&](int part) {
    if (dartquant_status const status = call(workspaces[static_cast<std::size_t>(part)], part); status != 0)
      worst = status;
  });
  engine.arena.release(mark);
  require(worst, what);
}

/// A quantized matrix with its memory in the arena.
dartquant_quantized take_quantized(Arena& arena, std::int64_t rows, std::int64_t cols, std::int32_t bits,
                                   std::int64_t group, dartquant_symmetry symmetry) {
  std::int64_t const row_bytes = bits == 4 ? (cols + 1) / 2 : cols;
  std::int64_t const groups = group == 0 ? 1 : (cols + group - 1) / group;
  return {rows,      cols,
          bits,      symmetry,
          group,     arena.take<std::uint8_t>(rows * row_bytes),
          row_bytes, arena.take<float>(rows * groups),
          groups,    symmetry == dartquant_symmetric ? nullptr : arena.take<std::int32_t>(rows * groups),
          groups};
}

void quantize_into(Engine& engine, Rotation const& rotation, dartquant_matrix const& X,
                   dartquant_quantized const& q) {
  std::size_t bytes = 0;
  require(dartquant_rows_workspace_size(X.cols, &bytes), "rows");
  dartquant_transform const transform = rotation.transform();
  run_parts(engine, bytes, "quantize", [&](void* workspace, int part) {
    return dartquant_quantize(&engine.cpu, &transform, &X, 1.0f, &q, workspace, bytes, part,
                              engine.workers.count());
  });
}

}  // namespace

Engine::Engine(int threads, std::size_t arena_bytes) : workers(threads), arena(arena_bytes) {
  dartquant_amx_request();  // refused where there is no AMX, which is fine
  require(dartquant_cpu_detect(&cpu), "detect");
}

Rotation::Rotation(std::int64_t channels_, std::int64_t block_) : channels(channels_), block(block_) {
  if (block == 0) return;
  require(dartquant_hadamard_base(block, nullptr, 0, &base_order), "Hadamard base");
  base.resize(static_cast<std::size_t>(base_order * base_order), 1);
  if (base_order > 1)
    require(dartquant_hadamard_base(block, base.data(), base.size(), &base_order), "Hadamard base");
}

Linear load_linear(Engine& engine, Rotation const& rotation, float* W, std::int64_t out, std::int64_t in,
                   std::int64_t group) {
  Linear linear{{out, in, group, dartquant_symmetric, 0}, nullptr, 0};
  require(dartquant_packed_size(&linear.shape, &linear.bytes), "packed size");
  void* const packed = engine.arena.take<std::byte>(static_cast<std::int64_t>(linear.bytes));
  linear.packed = packed;
  std::size_t const mark = engine.arena.mark();
  dartquant_quantized const q = take_quantized(engine.arena, out, in, 4, group, dartquant_symmetric);
  quantize_into(engine, rotation, {W, dartquant_float32, out, in, in}, q);
  run_parts(engine, 0, "pack", [&](void*, int part) {
    return dartquant_pack(&linear.shape, &q, packed, linear.bytes, part, engine.workers.count());
  });
  engine.arena.release(mark);
  return linear;
}

dartquant_quantized quantize(Engine& engine, Rotation const& rotation, float* X, std::int64_t tokens,
                             std::int32_t bits, dartquant_symmetry symmetry) {
  dartquant_quantized const q = take_quantized(engine.arena, tokens, rotation.channels, bits, 0, symmetry);
  quantize_into(engine, rotation, {X, dartquant_float32, tokens, rotation.channels, rotation.channels}, q);
  return q;
}

void rotate(Engine& engine, Rotation const& rotation, float* X, std::int64_t tokens) {
  if (rotation.block == 0) return;
  std::size_t bytes = 0;
  require(dartquant_rows_workspace_size(rotation.channels, &bytes), "rows");
  dartquant_transform const transform = rotation.transform();
  dartquant_matrix const x{X, dartquant_float32, tokens, rotation.channels, rotation.channels};
  run_parts(engine, bytes, "rotate", [&](void* workspace, int part) {
    return dartquant_hadamard(&engine.cpu, &transform, &x, &x, workspace, bytes, part,
                              engine.workers.count());
  });
}

void multiply(Engine& engine, Linear const& linear, dartquant_quantized const& X, float* Y) {
  std::size_t bytes = 0;
  require(dartquant_matmul_workspace_size(&linear.shape, X.rows, X.bits, &bytes), "workspace");
  dartquant_matrix const y{Y, dartquant_float32, X.rows, linear.shape.out, linear.shape.out};
  run_parts(engine, bytes, "matmul", [&](void* workspace, int part) {
    return dartquant_matmul(&engine.cpu, &linear.shape, linear.packed, linear.bytes, &X, nullptr, &y,
                            workspace, bytes, part, engine.workers.count());
  });
}

void multiply_float(Engine& engine, Linear const& linear, float* X, std::int64_t tokens, float* Y) {
  std::size_t bytes = 0;
  require(dartquant_matmul_workspace_size(&linear.shape, tokens, 32, &bytes), "workspace");
  dartquant_matrix const x{X, dartquant_float32, tokens, linear.shape.in, linear.shape.in},
      y{Y, dartquant_float32, tokens, linear.shape.out, linear.shape.out};
  run_parts(engine, bytes, "matmul", [&](void* workspace, int part) {
    return dartquant_matmul_float(&engine.cpu, &linear.shape, linear.packed, linear.bytes, &x, nullptr, &y,
                                  workspace, bytes, part, engine.workers.count());
  });
}

}  // namespace engine
