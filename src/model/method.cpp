// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include <dartquant/core/error.hpp>
#include <dartquant/model/pipeline.hpp>

namespace dartquant {
namespace {

using detail::require;

constexpr std::array all_methods{Method::rtn,      Method::quarot,   Method::dartquant, Method::uniformity,
                                 Method::kurtosis, Method::variance, Method::peak,      Method::quant_error};

}  // namespace

std::span<Method const> methods() { return all_methods; }

std::string_view name_of(Method method) {
  switch (method) {
    case Method::rtn:
      return "rtn";
    case Method::quarot:
      return "quarot";
    case Method::dartquant:
      return "dartquant";
    case Method::uniformity:
      return "uniformity";
    case Method::kurtosis:
      return "kurtosis";
    case Method::variance:
      return "variance";
    case Method::peak:
      return "peak";
    case Method::quant_error:
      return "quant-error";
  }
  return "";
}

Method parse_method(std::string_view name) {
  std::string known;
  for (Method const method : all_methods) {
    if (name_of(method) == name) return method;
    if (!known.empty()) known += ", ";
    known += name_of(method);
  }
  throw InvalidArgument(detail::sentence("[parse_method] '", name, "' is not a method (known: ", known, ")"));
}

index_t calibration_seqlen(ModelConfig const& config) { return std::min<index_t>(2048, config.positions); }

void LearningOptions::validate() const {
  require(epochs >= 0, "[LearningOptions] ", epochs, " epochs: give 0 for the default or a number above it");
  require(batch_rows >= 0, "[LearningOptions] ", batch_rows,
          " rows per batch: give 0 for the default or more");
  require(learning_rate >= 0 && learning_rate <= 1e6, "[LearningOptions] learning rate ", learning_rate,
          ": give 0 for the default or a number above it");
}

void ModelCalibrationOptions::validate() const {
  r1.validate();
  r2.validate();
}

void CaptureOptions::validate() const {
  require(r1_rows >= 1, "[CaptureOptions] ", r1_rows, " rows for R1: at least one is needed");
  require(r2_rows >= 1, "[CaptureOptions] ", r2_rows, " rows for R2: at least one is needed");
}

}  // namespace dartquant
