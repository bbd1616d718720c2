// SPDX-License-Identifier: Apache-2.0
#pragma once

// What every GPU benchmark is made of: a median time, and figures that go to a JSON file. No CUDA types, so
// that the writer of the table (table.cpp) and its test need no CUDA.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace dartquant::bench {

/// One measured figure, and what it is held against.
struct Figure {
  std::string name;    ///< "decode W4A4 g128, 1 token, 4096 x 14336"
  double value = 0;    ///< in `unit`
  std::string unit;    ///< "GB/s", "TOPS", "ms", "x"
  double against = 0;  ///< measured in the same run, in the same unit; 0: nothing
  std::string what;    ///< what that is: "copy", "int8 wgmma", "cuBLASLt bf16"
  double target = 0;   ///< value / against should be at least this; 0: no target. Where less is better
                       ///< (unit "ms"), against / value is meant, here and in the table.
};

/// Collects the figures of one program and writes them.
///     int main(int argc, char** argv) { Report report("rows", argc, argv); ...; return report.finish(); }
/// Options: --json FILE (where to write), --ceilings FILE (the JSON of bench_ceilings, for `ceiling`),
/// --filter TEXT (only figures whose name holds it), --quick (small sizes, to see that all runs).
class Report {
 public:
  /// Errors: std::invalid_argument for an unknown option or a file of ceilings that cannot be read.
  Report(std::string program, int argc, char** argv);

  [[nodiscard]] bool quick() const { return quick_; }
  [[nodiscard]] bool wants(std::string_view name) const;
  /// The figure of that name in the file of ceilings; 0 where there is none.
  [[nodiscard]] double ceiling(std::string_view name) const;
  void device(std::string name) { device_ = std::move(name); }
  /// Keeps a figure and prints its line.
  void add(Figure figure);
  /// Writes the file that --json names. The exit code of the program: 0.
  int finish() const;

 private:
  std::string program_, device_, json_, filter_;
  bool quick_ = false;
  std::vector<Figure> figures_, ceilings_;
};

/// The figures in a file that a Report wrote. Errors: std::invalid_argument.
[[nodiscard]] std::vector<Figure> read_figures(std::string const& file, std::string* program = nullptr,
                                               std::string* device = nullptr);

/// value / against, or against / value where less is better; 0 without `against`.
[[nodiscard]] double share(Figure const& figure);

}  // namespace dartquant::bench
