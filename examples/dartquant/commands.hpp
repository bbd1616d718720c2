// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

/// One function per sub-command: adds it with its flags to the program; its callback does the work.
namespace dartquant::program {

void add_inspect(CLI::App& program);
void add_calibrate(CLI::App& program);
void add_fold(CLI::App& program);
void add_quantize(CLI::App& program);
void add_eval(CLI::App& program);
void add_compare(CLI::App& program);
void add_tokenize(CLI::App& program);
void add_generate(CLI::App& program);

}  // namespace dartquant::program
