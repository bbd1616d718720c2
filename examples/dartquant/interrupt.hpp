// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace dartquant::program {

/// Thrown between two steps of a job after SIGINT or SIGTERM, so that everything unwinds and temporary files
/// go.
struct Interrupted {};

/// From now on the first SIGINT or SIGTERM asks the job to stop at its next step; a second one ends the
/// process at once. Writing to a closed pipe or beyond a file size limit becomes an error of that write.
void watch_signals();

/// Throws Interrupted after a signal.
void stop_if_interrupted();

}  // namespace dartquant::program
