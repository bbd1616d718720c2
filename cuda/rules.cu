// SPDX-License-Identifier: Apache-2.0
// The optimizer rules of this library, for programs that no nvcc compiles.
#include <dartquant/calibrate/blend.hpp>
#include <dartquant/calibrate/optimizer.hpp>
#include <dartquant/cuda/update.cuh>

namespace dartquant::cuda {

template void Gpu::update<float, Sgd>(Sgd const&, float, DeviceMatrixView<float const>,
                                      DeviceMatrixView<float>, DeviceMatrixView<float>,
                                      DeviceMatrixView<float>) const;
template void Gpu::update<float, Adam>(Adam const&, float, DeviceMatrixView<float const>,
                                       DeviceMatrixView<float>, DeviceMatrixView<float>,
                                       DeviceMatrixView<float>) const;
template void Gpu::update<float, detail::Blend<float>>(detail::Blend<float> const&, float,
                                                       DeviceMatrixView<float const>, DeviceMatrixView<float>,
                                                       DeviceMatrixView<float>,
                                                       DeviceMatrixView<float>) const;
template void Gpu::update<double, detail::Blend<double>>(detail::Blend<double> const&, double,
                                                         DeviceMatrixView<double const>,
                                                         DeviceMatrixView<double>, DeviceMatrixView<double>,
                                                         DeviceMatrixView<double>) const;

template void Gpu::update_heads<Adam>(Adam const&, StepRate const&, DeviceMatrixView<float const>,
                                      DeviceMatrixView<float>, DeviceMatrixView<float>,
                                      DeviceMatrixView<float>, DeviceMatrixView<double>) const;
template void Gpu::update_heads<Sgd>(Sgd const&, StepRate const&, DeviceMatrixView<float const>,
                                     DeviceMatrixView<float>, DeviceMatrixView<float>,
                                     DeviceMatrixView<float>, DeviceMatrixView<double>) const;

}  // namespace dartquant::cuda
