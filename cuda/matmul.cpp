// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/matmul.hpp>

#include <algorithm>
#include <type_traits>

#include "matmul_kernels.hpp"

namespace dartquant::cuda {
namespace {

using dartquant::detail::require;

constexpr std::size_t unit = 256;
[[nodiscard]] constexpr std::size_t round_up(std::size_t bytes) { return (bytes + unit - 1) / unit * unit; }

/// What a path needs of the workspace: staged activations, then their sums.
struct Workspace {
  StagedLayout layout{};
  std::size_t sums = 0, bytes = 0;
};

[[nodiscard]] Workspace workspace_of(MatmulPath path, MatmulShape const& shape) {
  Workspace w;
  if (path == MatmulPath::plain || path == MatmulPath::decode || path == MatmulPath::mma_floats) return w;
  StagedOrder const order = path == MatmulPath::wgmma         ? StagedOrder::blocks
                            : path == MatmulPath::mma_nibbles ? StagedOrder::nibbles
                                                              : StagedOrder::bytes;
  w.layout = staged_layout(order, shape.tokens, shape.weights.in);
  w.sums = round_up(static_cast<std::size_t>(w.layout.bytes()));
  index_t const cells =
      shape.weights.symmetry == Symmetry::symmetric ? 0 : shape.tokens * weight_layout(shape.weights).groups;
  w.bytes = w.sums + round_up(static_cast<std::size_t>(cells) * 4);
  return w;
}

void check_shape(MatmulShape const& s) {
  constexpr index_t most = index_t{65535} * 128;
  (void)packed_weight_bytes(s.weights);
  require(s.tokens >= 1 && s.tokens <= most, "[matmul] ", s.tokens, " tokens: 1 to ", most, " are possible");
  require(s.weights.out <= 2147483647 - 256, "[matmul] ", s.weights.out, " outputs: split them");
  require(s.x_bits == 4 || s.x_bits == 8 || s.x_bits == 16 || s.x_bits == 32, "[matmul] activations of ",
          s.x_bits, " bits: 4, 8, 16 and 32 are possible");
}

/// A pointer to device memory, aligned.
void require_device(char const* what, void const* pointer, std::size_t alignment) {
  require(pointer != nullptr, "[matmul] ", what, " is a null pointer");
  require(reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0, "[matmul] ", what,
          " must be aligned to ", alignment, " bytes");
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, pointer));
  require(attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged, "[matmul] ",
          what, " points to host memory (kind ", static_cast<int>(attributes.type),
          "): copy it to the device first");
}

template <class T>
[[nodiscard]] constexpr OutputType type_of() {
  return std::is_same_v<T, float>  ? OutputType::float32
         : std::is_same_v<T, Half> ? OutputType::float16
                                   : OutputType::bfloat16;
}

template <class T>
[[nodiscard]] Output output_of(WeightShape const& weights, index_t tokens, DeviceMatrixView<T> Y) {
  require(Y.rows() == tokens && Y.cols() == weights.out, "[matmul] Y is ", Y.rows(), " x ", Y.cols(), " for ",
          tokens, " tokens and ", weights.out, " outputs");
  require(Y.rows() <= 1 || Y.stride() >= Y.cols(), "[matmul] Y has a stride of ", Y.stride(), " for ",
          Y.cols(), " columns");
  require_device("Y", Y.data(), alignof(T));
  return {Y.data(), type_of<T>(), Y.stride(), static_cast<int>(tokens), static_cast<int>(weights.out)};
}

void check_operands(WeightShape const& weights, void const* packed, index_t channels, float const* bias) {
  require(channels == weights.in, "[matmul] X has ", channels, " channels and W ", weights.in, " inputs");
  require_device("packed", packed, 128);
  if (bias != nullptr) require_device("bias", bias, alignof(float));
}

[[nodiscard]] Activations activations_of(WeightShape const& weights, ConstQuantizedRows const& X) {
  WeightLayout const l = weight_layout(weights);
  index_t const width = X.group == 0 || X.group > X.cols ? X.cols : X.group;
  require(width == X.cols || width == l.width, "[matmul] groups of ", width, " channels of X and ", l.width,
          " of W: give X one scale per token, or the groups of W");
  bool const grouped = width < X.cols, zeros = X.symmetry == Symmetry::asymmetric;
  index_t const cells = grouped ? l.groups : 1, row = X.bits == 4 ? int4_bytes(X.cols) : X.cols;
  require(X.rows == 1 || X.level_stride >= row, "[matmul] a stride of ", X.level_stride,
          " bytes for rows of ", row);
  require(X.rows == 1 || X.scale_stride >= cells, "[matmul] a stride of ", X.scale_stride, " for ", cells,
          " scales of a token");
  require_device("X.levels", X.levels, 1);
  require_device("X.scales", X.scales, alignof(float));
  if (zeros) {
    require(X.rows == 1 || X.zero_point_stride >= cells, "[matmul] a stride of ", X.zero_point_stride,
            " for ", cells, " zero points of a token");
    require_device("X.zero_points", X.zero_points, alignof(std::int32_t));
    require(X.bits == 4 || weights.sums,
            "[matmul] asymmetric 8-bit activations need weights that are packed with sums of levels");
  }
  return {X.levels,
          X.level_stride,
          X.scales,
          X.scale_stride,
          zeros ? X.zero_points : nullptr,
          X.zero_point_stride,
          static_cast<int>(X.rows),
          static_cast<int>(X.cols),
          X.bits,
          static_cast<int>(l.width),
          grouped,
          reinterpret_cast<std::uintptr_t>(X.levels) % 4 == 0 && X.level_stride % 4 == 0};
}

void launch_staged(cudaStream_t stream, MatmulPath path, IntProduct& p, Workspace const& space,
                   std::byte* workspace) {
  detail::launch_stage(stream, p.x, space.layout, workspace);
  p.staged = workspace;
  if (p.w.zero_points != nullptr) {
    auto* const sums = reinterpret_cast<std::int32_t*>(workspace + space.sums);
    detail::launch_sums(stream, p.x, path == MatmulPath::mma_nibbles, p.w.groups, sums);
    p.x_sums = sums;
  }
  if (path == MatmulPath::wgmma) detail::launch_wgmma(stream, p, space.layout);
  else if (path == MatmulPath::mma_nibbles) detail::launch_mma_nibbles(stream, p);
  else detail::launch_mma_bytes(stream, p);
}

template <class T>
void multiply(cudaStream_t stream, WeightShape const& weights, void const* packed,
              ConstQuantizedRows const& X, float const* bias, DeviceMatrixView<T> Y, void* workspace,
              std::size_t workspace_bytes) {
  MatmulShape const shape{weights, X.rows, X.bits, X.symmetry};
  check_shape(shape);
  require(X.bits <= 8, "[matmul] quantized activations of ", X.bits, " bits: 4 and 8 are possible");
  IntProduct p{};
  p.x = activations_of(weights, X);
  check_operands(weights, packed, X.cols, bias);
  p.y = output_of(weights, X.rows, Y);
  MatmulPath const path = matmul_path(matmul_target(), shape);
  Workspace const space = workspace_of(path, shape);
  require(workspace_bytes >= space.bytes, "[matmul] a workspace of ", workspace_bytes, " bytes where ",
          space.bytes, " are needed: see matmul_workspace_bytes");
  if (space.bytes > 0) require_device("workspace", workspace, unit);
  p.w = Weights(weights, static_cast<std::byte const*>(packed));
  p.bias = bias;
  p.zero_points_left = X.symmetry == Symmetry::asymmetric && (X.bits == 8 || path == MatmulPath::mma_nibbles);
  if (path == MatmulPath::plain) detail::launch_plain(stream, p);
  else if (path == MatmulPath::decode) detail::launch_decode(stream, p);
  else launch_staged(stream, path, p, space, static_cast<std::byte*>(workspace));
}

template <class T, class Out>
void multiply_floats(cudaStream_t stream, WeightShape const& weights, void const* packed,
                     DeviceMatrixView<T const> X, float const* bias, DeviceMatrixView<Out> Y) {
  MatmulShape const shape{weights, X.rows(), static_cast<int>(8 * sizeof(T)), Symmetry::symmetric};
  check_shape(shape);
  require(X.rows() == 1 || X.stride() >= X.cols(), "[matmul] X has a stride of ", X.stride(), " for ",
          X.cols(), " columns");
  check_operands(weights, packed, X.cols(), bias);
  require_device("X", X.data(), alignof(T));
  FloatProduct<T> p{};
  p.w = Weights(weights, static_cast<std::byte const*>(packed));
  bool const aligned = reinterpret_cast<std::uintptr_t>(X.data()) % 16 == 0 &&
                       X.stride() * static_cast<index_t>(sizeof(T)) % 16 == 0;
  p.x = {X.data(), X.stride(), static_cast<int>(X.rows()), static_cast<int>(X.cols()), aligned};
  p.bias = bias;
  p.y = output_of(weights, X.rows(), Y);
  detail::launch_float(stream, matmul_path(matmul_target(), shape), p);
}

}  // namespace

MatmulTarget matmul_target() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
#ifdef DARTQUANT_CUDA_SM90A
  constexpr bool wgmma = true;
#else
  constexpr bool wgmma = false;
#endif
  return {10 * major + minor, wgmma};
}

std::size_t matmul_workspace_bytes(MatmulTarget const& target, MatmulShape const& shape) {
  check_shape(shape);
  return workspace_of(matmul_path(target, shape), shape).bytes;
}

void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed, ConstQuantizedRows const& X,
            float const* bias, DeviceMatrixView<float> Y, void* workspace, std::size_t workspace_bytes) {
  multiply(stream, weights, packed, X, bias, Y, workspace, workspace_bytes);
}
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed, ConstQuantizedRows const& X,
            float const* bias, DeviceMatrixView<Half> Y, void* workspace, std::size_t workspace_bytes) {
  multiply(stream, weights, packed, X, bias, Y, workspace, workspace_bytes);
}
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed, ConstQuantizedRows const& X,
            float const* bias, DeviceMatrixView<BFloat16> Y, void* workspace, std::size_t workspace_bytes) {
  multiply(stream, weights, packed, X, bias, Y, workspace, workspace_bytes);
}

void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<float const> X, float const* bias, DeviceMatrixView<float> Y) {
  multiply_floats(stream, weights, packed, X, bias, Y);
}
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<Half const> X, float const* bias, DeviceMatrixView<Half> Y) {
  multiply_floats(stream, weights, packed, X, bias, Y);
}
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<Half const> X, float const* bias, DeviceMatrixView<float> Y) {
  multiply_floats(stream, weights, packed, X, bias, Y);
}
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<BFloat16 const> X, float const* bias, DeviceMatrixView<BFloat16> Y) {
  multiply_floats(stream, weights, packed, X, bias, Y);
}
void matmul(cudaStream_t stream, WeightShape const& weights, void const* packed,
            DeviceMatrixView<BFloat16 const> X, float const* bias, DeviceMatrixView<float> Y) {
  multiply_floats(stream, weights, packed, X, bias, Y);
}

}  // namespace dartquant::cuda
