// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/host_products.hpp>
#include <dartquant/cuda/gpu.hpp>

namespace dartquant::cuda {

/// Products of matrices of the host on a GPU, for Cpu::with_products:
///
///     dq::Cpu const cpu = dq::Cpu().with_products(dq::cuda::host_products(gpu));
///
/// op(A) goes to the device in blocks of rows and C comes back likewise, op(B) stays there for one product:
/// device memory is that of op(B) and of `block_rows` rows of op(A) and C, from the pool of `gpu`. Precision
/// is that of GpuOptions::products. Products in double only where the device computes FP64 at a quarter of
/// its FP32 rate or faster. Any thread may call: one product runs at a time. Keeps a copy of `gpu`, which
/// must not be used elsewhere meanwhile. Errors of the products: CudaError.
[[nodiscard]] HostProducts host_products(Gpu const& gpu, index_t block_rows = 8192);

}  // namespace dartquant::cuda
