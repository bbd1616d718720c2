// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/calibrate/calibrate.hpp>
#include <dartquant/calibrate/cayley.hpp>
#include <dartquant/calibrate/output_error.hpp>
#include <dartquant/calibrate/procrustes.hpp>

// The calibrations on the CPU that the compiled library holds: those that the model pipeline can choose.
#ifdef DARTQUANT_COMPILED  // see core/instantiations.hpp
namespace dartquant::detail {

DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Whip, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Whip, Sgd> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Whip, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Whip, Sgd> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Uniformity, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Uniformity, Sgd> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Uniformity, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Uniformity, Sgd> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Kurtosis, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Kurtosis, Sgd> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Kurtosis, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Kurtosis, Sgd> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Variance, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Variance, Sgd> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Variance, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Variance, Sgd> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Peak, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Peak, Sgd> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Peak, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Peak, Sgd> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, QuantError, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<QuantError, Sgd> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, QuantError, Sgd, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<QuantError, Sgd> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Whip, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Whip, Procrustes> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Whip, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Whip, Procrustes> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Uniformity, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Uniformity, Procrustes> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Uniformity, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Uniformity, Procrustes> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Kurtosis, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Kurtosis, Procrustes> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Kurtosis, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Kurtosis, Procrustes> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Peak, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Peak, Procrustes> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Peak, Procrustes, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Peak, Procrustes> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, Whip, Cayley, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<Whip, Cayley> const&);
DARTQUANT_COMPILED template HeadCalibration calibrate_heads<float, Whip, Cayley, Cpu>(
    Cpu const&, MatrixView<float const>, index_t, index_t, CalibrationOptions<Whip, Cayley> const&);
DARTQUANT_COMPILED template Calibration calibrate_rotation<float, OutputError, Cayley, Cpu>(
    Cpu const&, MatrixView<float const>, CalibrationOptions<OutputError, Cayley> const&);

}  // namespace dartquant::detail
#endif
