// SPDX-License-Identifier: Apache-2.0
#include <dartquant/cuda/gpu.hpp>

#include <algorithm>
#include <utility>

#include "machine.hpp"

namespace dartquant::cuda {
namespace {

[[nodiscard]] std::shared_ptr<Machine> open_device(int device, GpuOptions const& options) {
  int count = 0;
  check(cudaGetDeviceCount(&count));
  detail::require(device >= 0 && device < count, "[Gpu] device ", device, ": there are ", count,
                  ", numbered from 0");
  DeviceScope const scope(device);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return std::make_shared<Machine>(device, stream, true, options);
}

[[nodiscard]] std::shared_ptr<Machine> open_stream(cudaStream_t stream, GpuOptions const& options) {
  int count = 0, device = 0;
  check(cudaGetDeviceCount(&count));
  check(cudaStreamGetDevice(stream, &device));
  DeviceScope const scope(device);
  return std::make_shared<Machine>(device, stream, false, options);
}

}  // namespace

DeviceScope::DeviceScope(int device) {
  check(cudaGetDevice(&before_));
  changed_ = before_ != device;
  if (changed_) check(cudaSetDevice(device));
}
DeviceScope::~DeviceScope() {
  if (changed_) cudaSetDevice(before_);
}

Gpu::Gpu(int device, GpuOptions const& options) : machine_(open_device(device, options)) {
  check_architecture();
}
Gpu::Gpu(cudaStream_t stream, GpuOptions const& options) : machine_(open_stream(stream, options)) {
  check_architecture();
}

cudaStream_t Gpu::stream() const { return machine_->stream; }
int Gpu::device() const { return machine_->device; }
std::size_t Gpu::bytes_held() const { return machine_->pool->bytes_held(); }
void Gpu::synchronize() const { machine_->wait(); }

std::string Gpu::name() const {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device()));
  return detail::sentence(static_cast<char const*>(properties.name), " (", properties.major, ".",
                          properties.minor, ")");
}

std::shared_ptr<MemoryPool> Gpu::pool() const { return machine_->pool; }
DeviceScope Gpu::enter() const { return DeviceScope(machine_->device); }
DeviceMatrixView<double> Gpu::scalars() const { return machine_->scalars; }

double* Gpu::partial_sums(index_t count) const {
  if (machine_->partial.cols() < count) machine_->partial = machine_->matrix<double>(1, count);
  return machine_->partial.data();
}

void Gpu::read_scalars(double* numbers, std::size_t count) const {
  auto const scope = enter();
  auto* const host = static_cast<double*>(machine_->pinned.reserve(sizeof(double) * Machine::scalar_count));
  check(cudaMemcpyAsync(host, machine_->scalars.data(), sizeof(double) * count, cudaMemcpyDeviceToHost,
                        stream()));
  machine_->wait();
  std::copy_n(host, count, numbers);
}

void Gpu::check_view(void const* data, index_t rows, index_t cols, index_t stride) const {
  detail::require(rows >= 0 && cols >= 0 && stride >= cols, "[Gpu::view] ", rows, " x ", cols, ", stride ",
                  stride, ": sizes must not be negative, and the stride at least the columns");
  if (rows == 0 || cols == 0) return;
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, data));
  bool const host = attributes.type == cudaMemoryTypeUnregistered || attributes.type == cudaMemoryTypeHost;
  detail::require(!host,
                  "[Gpu::view] a pointer to memory of the host where memory of the device is due: copy it "
                  "with Gpu::copy");
  detail::require(attributes.type == cudaMemoryTypeManaged || attributes.device == device(),
                  "[Gpu::view] memory of device ", attributes.device, " given to device ", device(),
                  ": copy it there, or use a Gpu of its device");
}

void Gpu::check_objective(index_t groups, index_t rows, index_t cols, index_t slope_rows,
                          index_t slope_cols) const {
  detail::require(rows >= 1 && slope_rows == rows && slope_cols == cols, "[objective] ", rows, " x ", cols,
                  " values and ", slope_rows, " x ", slope_cols,
                  " slopes: equal shapes and at least one row are needed");
  constexpr index_t most_groups = 65535;
  detail::require(groups >= 1 && groups <= most_groups && rows % groups == 0, "[objective] ", groups,
                  " groups of ", rows, " rows: 1 to ", most_groups, " equal groups are possible");
}

bool Gpu::fits_shared_memory(std::size_t bytes) const { return bytes <= machine_->block_shared_bytes; }

void Gpu::check_shared_memory(char const* who, index_t channels, std::size_t bytes) const {
  detail::require(fits_shared_memory(bytes), "[", who, "] ", channels, " channels need ", bytes,
                  " bytes of shared memory, device ", device(), " has ", machine_->block_shared_bytes,
                  " per block: use the CPU, or an objective that does not sort");
}

}  // namespace dartquant::cuda
