// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/io/npy.hpp>
#include <dartquant/io/safetensors.hpp>
#include <dartquant/model/pipeline.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/synthetic_checkpoint.hpp"

namespace dartquant::test {

/// A real model with reference numbers of an independent implementation.
struct RealModel {
  std::string name;
  fs::path folder, ids, logits;
  index_t seqlen;
  double perplexity;               ///< on all windows
  std::vector<double> window_nll;  ///< mean of the first windows, where known

  [[nodiscard]] TokenWindows windows(index_t count) const {
    return windows_of(read_npy_integers(ids), seqlen, count);
  }
};

/// The model in examples/data, and those of ../shared/models where that folder exists.
inline std::vector<RealModel> real_models() {
  fs::path const tiny = fs::path(DARTQUANT_EXAMPLE_DATA) / "tiny-llama", shared = DARTQUANT_SHARED_MODELS;
  std::vector<RealModel> models{
      {"tiny-llama", tiny, tiny / "eval_ids.npy", tiny / "logits.safetensors", 128, 9.40339465520485, {}}};
  if (!fs::exists(shared)) return models;
  auto const add = [&](std::string const& name, double perplexity, std::vector<double> window_nll) {
    fs::path const tokens = shared / "tokens" / name;
    models.push_back({name, shared / name, tokens / "tinystories-eval.npy", tokens / "logits.safetensors",
                      256, perplexity, std::move(window_nll)});
  };
  add("stories260K", 5.780100041545136,
      {1.547574, 2.021408, 1.340669, 1.56899, 2.007575, 1.790403, 1.675492, 1.675025});
  add("tiny1m", 5.096569696229239,
      {1.23766, 1.976503, 1.128968, 1.559563, 1.779023, 1.774599, 1.706997, 1.720533});
  return models;
}

/// Says that the other real models are missing; true where they are there.
inline bool have_shared_models() {
  if (fs::exists(DARTQUANT_SHARED_MODELS)) return true;
  WARN("skipped: no ../shared/models here");
  return false;
}

inline double relative_difference(RowMatrix<float> const& a, RowMatrix<float> const& b) {
  return static_cast<double>((a - b).cwiseAbs().maxCoeff()) / static_cast<double>(b.cwiseAbs().maxCoeff());
}

/// Token ids spread over the vocabulary [windows, seqlen].
inline TokenWindows some_tokens(index_t windows, index_t seqlen, index_t vocabulary, std::uint64_t seed = 7) {
  TokenWindows tokens(windows, seqlen);
  Philox const random(seed);
  for (index_t i = 0; i < tokens.size(); ++i)
    tokens.data()[i] = static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocabulary)));
  return tokens;
}

}  // namespace dartquant::test
