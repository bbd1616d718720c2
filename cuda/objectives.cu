// SPDX-License-Identifier: Apache-2.0
// The objectives of this library on floats, for programs that no nvcc compiles.
#include <dartquant/calibrate/range_share.hpp>
#include <dartquant/cuda/objective.cuh>

namespace dartquant::cuda {

template double Gpu::objective<float, Whip>(Whip const&, DeviceMatrixView<float const>,
                                            DeviceMatrixView<float>) const;
template double Gpu::objective<float, Variance>(Variance const&, DeviceMatrixView<float const>,
                                                DeviceMatrixView<float>) const;
template double Gpu::objective<float, Kurtosis>(Kurtosis const&, DeviceMatrixView<float const>,
                                                DeviceMatrixView<float>) const;
template double Gpu::objective<float, Peak>(Peak const&, DeviceMatrixView<float const>,
                                            DeviceMatrixView<float>) const;
template double Gpu::objective<float, Uniformity>(Uniformity const&, DeviceMatrixView<float const>,
                                                  DeviceMatrixView<float>) const;
template double Gpu::objective<float, QuantError>(QuantError const&, DeviceMatrixView<float const>,
                                                  DeviceMatrixView<float>) const;
template double Gpu::objective<float, detail::RangeShare>(detail::RangeShare const&,
                                                          DeviceMatrixView<float const>,
                                                          DeviceMatrixView<float>) const;

template void Gpu::objective_each<float, Whip>(index_t, Whip const&, DeviceMatrixView<float const>,
                                               DeviceMatrixView<float>, DeviceMatrixView<double>) const;
template void Gpu::objective_each<float, Variance>(index_t, Variance const&, DeviceMatrixView<float const>,
                                                   DeviceMatrixView<float>, DeviceMatrixView<double>) const;
template void Gpu::objective_each<float, Kurtosis>(index_t, Kurtosis const&, DeviceMatrixView<float const>,
                                                   DeviceMatrixView<float>, DeviceMatrixView<double>) const;
template void Gpu::objective_each<float, Peak>(index_t, Peak const&, DeviceMatrixView<float const>,
                                               DeviceMatrixView<float>, DeviceMatrixView<double>) const;
template void Gpu::objective_each<float, Uniformity>(index_t, Uniformity const&,
                                                     DeviceMatrixView<float const>, DeviceMatrixView<float>,
                                                     DeviceMatrixView<double>) const;
template void Gpu::objective_each<float, QuantError>(index_t, QuantError const&,
                                                     DeviceMatrixView<float const>, DeviceMatrixView<float>,
                                                     DeviceMatrixView<double>) const;

}  // namespace dartquant::cuda
