// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace dartquant::program {

/// Thrown between two steps of a job after SIGINT or SIGTERM, so that everything unwinds and temporary files
/// go.
struct Interrupted {};

/// From now on SIGINT and SIGTERM end the process with exit code 130: at once while no TemporaryFiles lives,
/// otherwise at the job's next step (a second signal ends it at once, and temporary files stay). Writing to a
/// closed pipe or beyond a file size limit becomes an error of that write.
void watch_signals();

/// Throws Interrupted after a signal.
void stop_if_interrupted();

/// Lives while there are temporary files that a stop must remove.
class TemporaryFiles {
 public:
  TemporaryFiles() noexcept;
  TemporaryFiles(TemporaryFiles const&) = delete;
  TemporaryFiles& operator=(TemporaryFiles const&) = delete;
  ~TemporaryFiles();
};

/// The sentence that says so.
inline constexpr char interrupted_sentence[] = "interrupted; nothing half-written was left behind";

}  // namespace dartquant::program
