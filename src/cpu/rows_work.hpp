// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the calls on rows do with the kernels: the steps that they share, and requests for what comes next.

#include <algorithm>
#include <cstdint>

#include <dartquant/kernels.h>

#include "cpu/kernel_table.hpp"
#include "cpu/rows_plan.hpp"

namespace dartquant::cpu {

/// The kernels of a call, each asking for rows to come where the instruction set can.
class Work {
 public:
  explicit Work(RowKernels const& kernels) : kernels_(kernels) {}

  /// The rows [first, first + rows) of X are next, all asked for after `requests` requests per 64 values.
  void next(dartquant_matrix const& x, std::int64_t first, std::int64_t rows, std::int64_t last,
            std::int64_t requests) {
    bool const any = kernels_.ahead != nullptr && first < last && x.stride < 2 * x.cols;
    std::int64_t const values = std::min(rows, last - first) * x.stride;  // with what lies between the rows
    std::int64_t const most = 64;
    ahead_ = nothing_;
    if (any)
      ahead_ = {reinterpret_cast<char const*>(row_of(x, first)),
                std::min(most, values * element_bytes(x.type) * 64 / (requests * rows * x.cols))};
    asks_ = any;
  }
  void load(Type type, void const* x, std::int32_t const* permutation, float* y, std::int64_t count) {
    if (asks_) kernels_.ahead->load(type, x, permutation, y, count, &ahead_);
    else kernels_.load(type, x, permutation, y, count);
  }
  void store(Type type, float const* x, float factor, void* y, std::int64_t count) {
    if (asks_) kernels_.ahead->store(type, x, factor, y, count, &ahead_);
    else kernels_.store(type, x, factor, y, count);
  }
  void walsh(float* x, std::int64_t count, std::int64_t length) {
    if (asks_) kernels_.ahead->walsh(x, count, length, &ahead_);
    else kernels_.walsh(x, count, length);
  }
  Range range(float const* x, std::int64_t count) {
    return asks_ ? kernels_.ahead->range(x, count, &ahead_) : kernels_.range(x, count);
  }
  void quantize(float const* x, std::int64_t count, LevelMap const& map, std::int8_t* levels) {
    if (asks_) kernels_.ahead->quantize(x, count, &map, levels, &ahead_);
    else kernels_.quantize(x, count, &map, levels);
  }
  void transform(Transform const& transform) { kernels_.transform(&transform, &ahead_); }
  void quantize_groups(QuantizedGroups const& groups) { kernels_.quantize_groups(&groups, &ahead_); }
  [[nodiscard]] RowKernels const& kernels() const { return kernels_; }
  /// Whether blocks of this plan are transformed while they are loaded.
  [[nodiscard]] bool transforms(Plan const& plan) const {
    return kernels_.transform != nullptr && plan.length >= 16;
  }

 private:
  RowKernels const& kernels_;
  Ahead nothing_{reinterpret_cast<char const*>(&kernels_), 0}, ahead_ = nothing_;
  bool asks_ = false;
};

/// Rows [first, first + rows) of X, permuted, as consecutive rows of floats.
inline void load_rows(Work& work, Plan const& plan, dartquant_matrix const& x, std::int64_t first,
                      std::int64_t rows, float* values) {
  auto const type = static_cast<Type>(x.type);
  if (plan.permutation == nullptr && x.stride == x.cols)
    return work.load(type, row_of(x, first), nullptr, values, rows * x.cols);
  for (std::int64_t i = 0; i < rows; ++i)
    work.load(type, row_of(x, first + i), plan.permutation, values + i * x.cols, x.cols);
}

/// All of the transform that comes between the permutation and the factor.
inline void apply_blocks(Work& work, Plan const& plan, std::int64_t count, float* values, float* buffer) {
  if (plan.length > 1) work.walsh(values, count / plan.length, plan.length);
  if (plan.base == nullptr) return;
  std::int64_t const block = plan.order * plan.length;
  for (std::int64_t at = 0; at < count; at += block)
    work.kernels().multiply_base(plan.base, plan.order, plan.length, values + at, buffer);
}

}  // namespace dartquant::cpu
