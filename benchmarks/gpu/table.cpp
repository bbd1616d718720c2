// SPDX-License-Identifier: Apache-2.0
// gpu_table FILE.json ... : the figures of GPU benchmarks as Markdown tables, one per program.

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

#include "report.hpp"

using dartquant::bench::Figure;

namespace {

/// Three significant digits: 4.31e+03 is not what a table wants.
std::string number(double value) {
  char text[32];
  int const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 4;
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

void print(Figure const& f) {
  std::printf("| %s | %s %s |", f.name.c_str(), number(f.value).c_str(), f.unit.c_str());
  if (f.against > 0)
    std::printf(" %s of %s (%s %s) |", number(share(f)).c_str(), f.what.c_str(), number(f.against).c_str(),
                f.unit.c_str());
  else std::printf(" |");
  if (f.target > 0)
    std::printf(" %s, %s |\n", number(f.target).c_str(), share(f) >= f.target ? "met" : "not met");
  else std::printf(" |\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: gpu_table FILE.json ...\n");
    return 2;
  }
  try {
    for (int i = 1; i < argc; ++i) {
      std::string program, device;
      auto const figures = dartquant::bench::read_figures(argv[i], &program, &device);
      std::printf("%s### %s, on %s\n\n| what | figure | share | target |\n|---|---|---|---|\n",
                  i == 1 ? "" : "\n", program.c_str(), device.c_str());
      for (Figure const& f : figures) print(f);
    }
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
