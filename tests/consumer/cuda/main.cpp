// SPDX-License-Identifier: Apache-2.0
// Chooses the machine at run time: a GPU where there is one, else the CPU.
#include <cstdio>

#include <dartquant/cuda/gpu.hpp>
#include <dartquant/dartquant.hpp>

namespace dq = dartquant;

template <class Machine>
double calibrate(Machine const& machine, dq::RowMatrix<float> const& X) {
  auto copy = machine.template matrix<float>(X.rows(), X.cols());
  dq::MatrixView<float, Machine::space> const view = copy;
  machine.copy(dq::MatrixView<float const>(X), view);
  return dq::calibrate_rotation(machine, view, {.epochs = 3, .seed = 1}).best_loss;
}

int main() {
  dq::RowMatrix<float> X = dq::RowMatrix<float>::Ones(64, 16);
  for (dq::index_t i = 0; i < X.size(); ++i) X.data()[i] += static_cast<float>(i % 7) - 3;
  try {
    dq::cuda::Gpu const gpu;
    std::printf("on %s: %.6f\n", gpu.name().c_str(), calibrate(gpu, X));
  } catch (dq::cuda::CudaError const& error) {
    std::printf("%s\non the CPU: %.6f\n", error.what(), calibrate(dq::Cpu(1), X));
  }
}
