// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include <dartquant/model/forward.hpp>

#include "flags.hpp"
#include "progress.hpp"

namespace dartquant::program {

/// What a model is to write.
struct OwnText {
  TextSource source{};  ///< the first tokens of its windows begin those to write; none: one random token each
  index_t windows = 0, seqlen = 0;  ///< of `windows` at most as many as the source has
  index_t prompt = 8;               ///< tokens of a window that are from the source
  double temperature = 1;
};

/// Lets the model write, after saying what that takes. Errors: InvalidArgument where that is more than the
/// memory of this machine; those of the source and of generate.
[[nodiscard]] TokenWindows write_own_text(CommonFlags const& flags, Machine const& machine,
                                          Model const& model, OwnText const& wanted,
                                          ProgressDisplay& progress);

/// The file of a text to learn from, or that the model wrote it where none was given.
[[nodiscard]] std::string name_of_text(TextSource const& source);

/// The windows that a command learns from and rounds weights by: of a text, or where none was given written
/// by the model. They are read or written once, when they are first asked for.
class LearningText {
 public:
  /// At most `samples` windows. What is passed by reference must outlive this.
  LearningText(CommonFlags const& flags, Machine const& machine, Model const& model, TextSource source,
               index_t seqlen, index_t samples, ProgressDisplay& progress);

  /// Errors: those of spread_windows or write_own_text.
  [[nodiscard]] TokenWindows const& windows();
  [[nodiscard]] std::string name() const { return name_of_text(source_); }
  /// Whether the model has written it.
  [[nodiscard]] bool is_written() const { return windows_ && !source_.given(); }

 private:
  CommonFlags const& flags_;
  Machine const& machine_;
  Model const& model_;
  TextSource source_;
  index_t seqlen_, samples_;
  ProgressDisplay& progress_;
  std::optional<TokenWindows> windows_{};
};

}  // namespace dartquant::program
