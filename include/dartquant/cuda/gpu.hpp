// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include <dartquant/core/backend.hpp>
#include <dartquant/core/view.hpp>
#include <dartquant/cuda/device_matrix.hpp>
#include <dartquant/cuda/error.hpp>

#include <cuda_runtime_api.h>

namespace dartquant::cuda {

/// How the products of float matrices are computed. Factorisations and Gram matrices do not depend on it.
enum class Products {
  automatic,  ///< tf32x3 for large products where it is faster than float32 (A100, H100, H200, B200)
  float32,    ///< in FP32 throughout
  tf32x3,  ///< as exact as float32, on the tensor cores: each factor as a sum of two TF32 numbers, three of
           ///< the four products, sums that begin anew every 512 terms
  tf32,     ///< factors rounded to 11 significant bits (TensorFloat-32), sums in FP32
  bfloat16  ///< factors rounded to 8 significant bits, sums in FP32
};

/// How the Gram matrix of float columns is formed before its Cholesky factorisation, which is always in FP64.
enum class GramPrecision {
  automatic,  ///< float64 where the device computes FP64 at a quarter of its FP32 rate or faster
  float64,
  float32  ///< Cholesky then holds for latents of smaller condition; beyond, Householder
};

struct GpuOptions {
  Products products = Products::automatic;
  GramPrecision gram = GramPrecision::automatic;
};

class Machine;

/// Makes a device the calling thread's current one, and puts back the one before.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  DeviceScope(DeviceScope const&) = delete;
  DeviceScope& operator=(DeviceScope const&) = delete;
  ~DeviceScope();

 private:
  int before_ = 0;
  bool changed_ = false;
};

/// One CUDA device and one stream of it as a Backend: calibrate_rotation, calibrate_heads, qr_orth and
/// polar_factor run on it as they do on Cpu, on matrices in device memory.
///
///     dq::cuda::Gpu gpu;                                          // device 0, a stream of its own
///     auto X = gpu.matrix<float>(tokens, channels);
///     gpu.copy(host, X.view());
///     auto found = dq::calibrate_rotation(gpu, X, {.seed = 1});
///
/// Work is enqueued and runs in the order of the calls. A call that returns a number waits for it, as do
/// copies to the host and from pageable memory of it. Device memory comes from a pool that only grows, so the
/// steady state of a loop allocates nothing. The same calls give the same bytes on the same kind of device:
/// sums are taken in a fixed order and there are no atomics. Copies of a Gpu share stream, handles and pool.
/// One thread at a time.
///
/// Every primitive checks shapes (InvalidArgument) and every call of CUDA (CudaError). Objectives and
/// optimizer rules are types of the caller: those of this library are compiled into DartQuant::cuda for
/// float, for others include cuda/objective.cuh or cuda/update.cuh in a file that nvcc compiles.
class Gpu {
 public:
  static constexpr Space space = Space::device;
  template <class T>
  using Matrix = DeviceMatrix<T>;

  /// A stream of its own on `device`. Errors: CudaError when there is no such device or driver, or its
  /// architecture is none that this library was built for.
  explicit Gpu(int device = 0, GpuOptions const& options = {});
  /// The caller's stream, on the stream's own device; it must outlive this and all copies of it.
  explicit Gpu(cudaStream_t stream, GpuOptions const& options = {});

  [[nodiscard]] cudaStream_t stream() const;
  [[nodiscard]] int device() const;
  /// The device's name and compute capability: "NVIDIA H200 (9.0)".
  [[nodiscard]] std::string name() const;
  /// Bytes of the device that the pool holds: the peak so far.
  [[nodiscard]] std::size_t bytes_held() const;
  /// Waits until all work enqueued so far is done. Errors: CudaError, also of earlier work.
  void synchronize() const;

  /// Memory of the caller's as a view, checked: `data` must be memory of this device (or managed). Errors:
  /// InvalidArgument for memory of the host or of another device, or a stride below cols.
  template <class T>
  [[nodiscard]] DeviceMatrixView<T> view(T* data, index_t rows, index_t cols, index_t stride) const {
    check_view(data, rows, cols, stride);
    return {data, rows, cols, stride};
  }

  template <class T>
  [[nodiscard]] DeviceMatrix<T> matrix(index_t rows, index_t cols) const {
    return {pool(), rows, cols};
  }

  // The primitives of Backend; see Cpu for what each computes. T: float or double.

  /// Elements: float or double to float or double; Half and BFloat16 of the device to float.
  template <class From, class To>
  void copy(DeviceMatrixView<From> from, DeviceMatrixView<To> to) const;
  template <class From, class To>
  void copy(MatrixView<From> from, DeviceMatrixView<To> to) const;
  template <class From, class To>
  void copy(DeviceMatrixView<From> from, MatrixView<To> to) const;

  template <class T>
  void gemm(T alpha, std::type_identity_t<DeviceMatrixView<T const>> A, Op op_a,
            std::type_identity_t<DeviceMatrixView<T const>> B, Op op_b, std::type_identity_t<T> beta,
            std::type_identity_t<DeviceMatrixView<T>> C) const;
  /// As `gemm` for `groups` equal groups of rows of A, B and C each, one above the other.
  template <class T>
  void gemm_each(index_t groups, T alpha, std::type_identity_t<DeviceMatrixView<T const>> A, Op op_a,
                 std::type_identity_t<DeviceMatrixView<T const>> B, Op op_b, std::type_identity_t<T> beta,
                 std::type_identity_t<DeviceMatrixView<T>> C) const;
  template <class T>
  void gram(std::type_identity_t<DeviceMatrixView<T const>> Z, DeviceMatrixView<double> G) const;
  [[nodiscard]] CholeskyStatus cholesky(DeviceMatrixView<double> G) const;
  /// Whether latents are orthonormalised wholly in FP64: see GramPrecision.
  [[nodiscard]] bool solves_wide() const;
  template <class T>
  [[nodiscard]] double condition_estimate(DeviceMatrixView<T> L) const;
  template <class T>
  void solve_lower(std::type_identity_t<DeviceMatrixView<T const>> L, Op op,
                   std::type_identity_t<DeviceMatrixView<T>> B, Fill fill = Fill::full) const;
  template <class T>
  void multiply_lower(std::type_identity_t<DeviceMatrixView<T const>> A,
                      std::type_identity_t<DeviceMatrixView<T const>> L,
                      std::type_identity_t<DeviceMatrixView<T>> C) const;
  template <class T>
  void set_diagonal(T value, std::type_identity_t<DeviceMatrixView<T>> A) const;
  template <class T>
  void skew_lower(std::type_identity_t<DeviceMatrixView<T>> A) const;
  template <class T>
  void householder_qr(std::type_identity_t<DeviceMatrixView<T const>> Z,
                      std::type_identity_t<DeviceMatrixView<T>> Q, DeviceMatrixView<double> L) const;
  template <class T, class Objective>
  double objective(Objective const& objective, std::type_identity_t<DeviceMatrixView<T const>> O,
                   std::type_identity_t<DeviceMatrixView<T>> slope) const;
  template <class T, class Rule>
  void update(Rule const& rule, T rate, std::type_identity_t<DeviceMatrixView<T const>> gradient,
              std::type_identity_t<DeviceMatrixView<T>> first,
              std::type_identity_t<DeviceMatrixView<T>> second,
              std::type_identity_t<DeviceMatrixView<T>> value) const;
  template <class T>
  void gather_rows(std::type_identity_t<DeviceMatrixView<T const>> X, VectorView<index_t const> rows,
                   std::type_identity_t<DeviceMatrixView<T>> Y) const;
  template <class T>
  void normalize_rows(std::type_identity_t<DeviceMatrixView<T>> Y) const;
  template <class T>
  [[nodiscard]] double frobenius_norm(std::type_identity_t<DeviceMatrixView<T const>> A) const;
  /// As `objective` for `groups` equal groups of rows, one above the other in O: losses[0, group] is the mean
  /// within a group. Enqueued only.
  template <class T, class Objective>
  void objective_each(index_t groups, Objective const& objective,
                      std::type_identity_t<DeviceMatrixView<T const>> O,
                      std::type_identity_t<DeviceMatrixView<T>> slope, DeviceMatrixView<double> losses) const;
  // The primitives of BatchedBackend: enqueued only.

  /// The largest order of the matrices that BatchedBackend's primitives take.
  static constexpr index_t largest_head = 256;
  void gather_heads(DeviceMatrixView<float const> X, VectorView<index_t const> numbers, index_t group,
                    DeviceMatrixView<float> Y) const;
  void orthonormalize_heads(DeviceMatrixView<float> Z, DeviceMatrixView<float> R, DeviceMatrixView<float> L,
                            DeviceMatrixView<float> first, DeviceMatrixView<float> second,
                            QrLimits const& limits, DeviceMatrixView<double> state) const;
  void gradient_heads(DeviceMatrixView<float const> L, DeviceMatrixView<float> A,
                      DeviceMatrixView<double> state) const;
  template <class Rule>
  void update_heads(Rule const& rule, StepRate const& rate, DeviceMatrixView<float const> gradient,
                    DeviceMatrixView<float> first, DeviceMatrixView<float> second,
                    DeviceMatrixView<float> value, DeviceMatrixView<double> state) const;
  void close_epoch(DeviceMatrixView<double const> losses, DeviceMatrixView<float const> R,
                   DeviceMatrixView<float> best, DeviceMatrixView<double> state) const;

  /// One after another: the device works on each with all it has.
  template <class Body>
  void for_each(index_t count, Body const& body) const {
    for (index_t i = 0; i < count; ++i) body(*this, i);
  }

 private:
  void check_architecture() const;
  void check_view(void const* data, index_t rows, index_t cols, index_t stride) const;
  void check_objective(index_t groups, index_t rows, index_t cols, index_t slope_rows,
                       index_t slope_cols) const;
  void check_shared_memory(char const* who, index_t channels, std::size_t bytes) const;
  [[nodiscard]] std::shared_ptr<MemoryPool> pool() const;
  [[nodiscard]] DeviceScope enter() const;
  /// Whether a block of the device has this much shared memory.
  [[nodiscard]] bool fits_shared_memory(std::size_t bytes) const;
  /// A copy of the numbers on the device, without waiting for the stream.
  [[nodiscard]] DeviceMatrix<index_t> upload(VectorView<index_t const> numbers) const;
  /// Space for `count` partial sums, until the next call.
  [[nodiscard]] double* partial_sums(index_t count) const;
  /// A few numbers in device memory, and the wait for the first of them.
  [[nodiscard]] DeviceMatrixView<double> scalars() const;
  template <std::size_t Count>
  [[nodiscard]] std::array<double, Count> read_scalars() const {
    std::array<double, Count> numbers;
    read_scalars(numbers.data(), Count);
    return numbers;
  }
  void read_scalars(double* numbers, std::size_t count) const;
  /// scalars()[slot] <- the sum of the squares of A.
  template <class T>
  void enqueue_square_sum(DeviceMatrixView<T const> A, int slot) const;
  /// to <- from on the device.
  template <class From, class To>
  void convert(DeviceMatrixView<From const> from, DeviceMatrixView<To> to) const;

  std::shared_ptr<Machine> machine_;
};

static_assert(Backend<Gpu> && BatchedBackend<Gpu>);

}  // namespace dartquant::cuda
