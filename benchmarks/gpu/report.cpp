// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

namespace dartquant::bench {

Report::Report(std::string program, int argc, char** argv) : program_(std::move(program)) {
  for (int i = 1; i < argc; ++i) {
    std::string_view const option = argv[i];
    auto const value = [&]() -> std::string {
      if (++i == argc) throw std::invalid_argument("[bench] " + std::string(option) + " needs a value");
      return argv[i];
    };
    if (option == "--json") json_ = value();
    else if (option == "--ceilings") ceilings_ = read_figures(value());
    else if (option == "--filter") filter_ = value();
    else if (option == "--quick") quick_ = true;
    else
      throw std::invalid_argument("[bench] unknown option " + std::string(option) +
                                  "; there are --json, --ceilings, --filter and --quick");
  }
}

bool Report::wants(std::string_view name) const { return name.find(filter_) != std::string_view::npos; }

double Report::ceiling(std::string_view name) const {
  auto const at =
      std::find_if(ceilings_.begin(), ceilings_.end(), [&](Figure const& f) { return f.name == name; });
  return at == ceilings_.end() ? 0.0 : at->value;
}

void Report::add(Figure figure) {
  std::printf("%-60s %10.4g %-8s", figure.name.c_str(), figure.value, figure.unit.c_str());
  if (figure.against > 0)
    std::printf(" %6.3f of %s (%.4g)", share(figure), figure.what.c_str(), figure.against);
  std::printf("\n");
  std::fflush(stdout);
  figures_.push_back(std::move(figure));
}

int Report::finish() const {
  if (json_.empty()) return 0;
  nlohmann::json all{{"program", program_}, {"device", device_}, {"figures", nlohmann::json::array()}};
  for (Figure const& f : figures_)
    all["figures"].push_back({{"name", f.name},
                              {"value", f.value},
                              {"unit", f.unit},
                              {"against", f.against},
                              {"what", f.what},
                              {"target", f.target}});
  std::ofstream file(json_);
  file << all.dump(1) << '\n';
  if (!file) throw std::invalid_argument("[bench] cannot write " + json_);
  return 0;
}

std::vector<Figure> read_figures(std::string const& file, std::string* program, std::string* device) {
  std::ifstream in(file);
  if (!in) throw std::invalid_argument("[bench] cannot read " + file);
  try {
    nlohmann::json const all = nlohmann::json::parse(in);
    if (program != nullptr) *program = all.at("program").get<std::string>();
    if (device != nullptr) *device = all.at("device").get<std::string>();
    std::vector<Figure> figures;
    for (auto const& f : all.at("figures"))
      figures.push_back({f.at("name").get<std::string>(), f.at("value").get<double>(),
                         f.at("unit").get<std::string>(), f.at("against").get<double>(),
                         f.at("what").get<std::string>(), f.at("target").get<double>()});
    return figures;
  } catch (nlohmann::json::exception const& e) {
    throw std::invalid_argument("[bench] " + file + " is not a file of figures: " + e.what());
  }
}

double share(Figure const& figure) {
  if (!(figure.against > 0) || !(figure.value > 0)) return 0;
  return figure.unit == "ms" || figure.unit == "s" ? figure.against / figure.value
                                                   : figure.value / figure.against;
}

}  // namespace dartquant::bench
