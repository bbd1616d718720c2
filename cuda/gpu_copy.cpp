// SPDX-License-Identifier: Apache-2.0
// Copies within the device, and between it and the host. Elements are converted on the device, so that fewer
// conversions exist and the host is not kept busy.
#include <dartquant/core/half.hpp>
#include <dartquant/cuda/gpu.hpp>

#include <type_traits>

#include "machine.hpp"

namespace dartquant::cuda {
namespace {

template <class A, class B>
void require_equal_shapes(A const& from, B const& to) {
  detail::require(from.rows() == to.rows() && from.cols() == to.cols(), "[copy] ", from.rows(), " x ",
                  from.cols(), " into ", to.rows(), " x ", to.cols(), ": the shapes differ");
}

template <class T>
[[nodiscard]] std::size_t bytes(index_t elements) {
  return static_cast<std::size_t>(elements) * sizeof(T);
}

/// Rows of equal elements; between strides.
template <class T, class From, class To>
void copy_rows(From const& from, To const& to, cudaMemcpyKind kind, cudaStream_t stream) {
  if (from.rows() == 0 || from.cols() == 0) return;
  check(cudaMemcpy2DAsync(to.data(), bytes<T>(to.stride()), from.data(), bytes<T>(from.stride()),
                          bytes<T>(from.cols()), static_cast<std::size_t>(from.rows()), kind, stream));
}

}  // namespace

DeviceMatrix<index_t> Gpu::upload(VectorView<index_t const> numbers) const {
  auto copy = machine_->matrix<index_t>(1, numbers.size());
  if (numbers.size() == 0) return copy;
  auto const scope = enter();
  machine_->staging.upload(numbers.data(), copy.data(), bytes<index_t>(numbers.size()), stream());
  return copy;
}

template <class From, class To>
void Gpu::copy(DeviceMatrixView<From> from, DeviceMatrixView<To> to) const {
  using Element = std::remove_const_t<From>;
  require_equal_shapes(from, to);
  if constexpr (std::is_same_v<Element, To>) {
    auto const scope = enter();
    copy_rows<To>(from, to, cudaMemcpyDeviceToDevice, stream());
  } else {
    convert<Element, To>(from, to);
  }
}

template <class From, class To>
void Gpu::copy(MatrixView<From> from, DeviceMatrixView<To> to) const {
  using Element = std::remove_const_t<From>;
  require_equal_shapes(from, to);
  auto const scope = enter();
  if constexpr (std::is_same_v<Element, To>) {
    copy_rows<To>(from, to, cudaMemcpyHostToDevice, stream());
  } else {
    auto staged = machine_->matrix<Element>(from.rows(), from.cols());
    copy_rows<Element>(from, staged.view(), cudaMemcpyHostToDevice, stream());
    convert<Element, To>(staged, to);
  }
}

template <class From, class To>
void Gpu::copy(DeviceMatrixView<From> from, MatrixView<To> to) const {
  using Element = std::remove_const_t<From>;
  require_equal_shapes(from, to);
  auto const scope = enter();
  if constexpr (std::is_same_v<Element, To>) {
    copy_rows<To>(from, to, cudaMemcpyDeviceToHost, stream());
  } else {
    auto staged = machine_->matrix<To>(from.rows(), from.cols());
    convert<Element, To>(from, staged.view());
    copy_rows<To>(staged.view(), to, cudaMemcpyDeviceToHost, stream());
  }
  machine_->wait();
}

template void Gpu::copy<float, float>(DeviceMatrixView<float>, DeviceMatrixView<float>) const;
template void Gpu::copy<float, float>(MatrixView<float>, DeviceMatrixView<float>) const;
template void Gpu::copy<float, float>(DeviceMatrixView<float>, MatrixView<float>) const;
template void Gpu::copy<float const, float>(DeviceMatrixView<float const>, DeviceMatrixView<float>) const;
template void Gpu::copy<float const, float>(MatrixView<float const>, DeviceMatrixView<float>) const;
template void Gpu::copy<float const, float>(DeviceMatrixView<float const>, MatrixView<float>) const;
template void Gpu::copy<float, double>(DeviceMatrixView<float>, DeviceMatrixView<double>) const;
template void Gpu::copy<float, double>(MatrixView<float>, DeviceMatrixView<double>) const;
template void Gpu::copy<float, double>(DeviceMatrixView<float>, MatrixView<double>) const;
template void Gpu::copy<float const, double>(DeviceMatrixView<float const>, DeviceMatrixView<double>) const;
template void Gpu::copy<float const, double>(MatrixView<float const>, DeviceMatrixView<double>) const;
template void Gpu::copy<float const, double>(DeviceMatrixView<float const>, MatrixView<double>) const;
template void Gpu::copy<double, float>(DeviceMatrixView<double>, DeviceMatrixView<float>) const;
template void Gpu::copy<double, float>(MatrixView<double>, DeviceMatrixView<float>) const;
template void Gpu::copy<double, float>(DeviceMatrixView<double>, MatrixView<float>) const;
template void Gpu::copy<double const, float>(DeviceMatrixView<double const>, DeviceMatrixView<float>) const;
template void Gpu::copy<double const, float>(MatrixView<double const>, DeviceMatrixView<float>) const;
template void Gpu::copy<double const, float>(DeviceMatrixView<double const>, MatrixView<float>) const;
template void Gpu::copy<double, double>(DeviceMatrixView<double>, DeviceMatrixView<double>) const;
template void Gpu::copy<double, double>(MatrixView<double>, DeviceMatrixView<double>) const;
template void Gpu::copy<double, double>(DeviceMatrixView<double>, MatrixView<double>) const;
template void Gpu::copy<double const, double>(DeviceMatrixView<double const>, DeviceMatrixView<double>) const;
template void Gpu::copy<double const, double>(MatrixView<double const>, DeviceMatrixView<double>) const;
template void Gpu::copy<double const, double>(DeviceMatrixView<double const>, MatrixView<double>) const;
template void Gpu::copy<Half, float>(DeviceMatrixView<Half>, DeviceMatrixView<float>) const;
template void Gpu::copy<Half const, float>(DeviceMatrixView<Half const>, DeviceMatrixView<float>) const;
template void Gpu::copy<BFloat16, float>(DeviceMatrixView<BFloat16>, DeviceMatrixView<float>) const;
template void Gpu::copy<BFloat16 const, float>(DeviceMatrixView<BFloat16 const>,
                                               DeviceMatrixView<float>) const;
template void Gpu::copy<Half, Half>(MatrixView<Half>, DeviceMatrixView<Half>) const;
template void Gpu::copy<Half const, Half>(MatrixView<Half const>, DeviceMatrixView<Half>) const;
template void Gpu::copy<BFloat16, BFloat16>(MatrixView<BFloat16>, DeviceMatrixView<BFloat16>) const;
template void Gpu::copy<BFloat16 const, BFloat16>(MatrixView<BFloat16 const>,
                                                  DeviceMatrixView<BFloat16>) const;

}  // namespace dartquant::cuda
