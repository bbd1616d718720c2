// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dartquant/core/cpu.hpp>

// The members of Cpu that the compiled library holds for float and double, so that no other file instantiates
// Eigen's products and factorisations again. DARTQUANT_COMPILED is "extern" for all who link DartQuant::
// dartquant, empty in the file that makes the library's copies, and not defined with the headers alone; the
// lists at the end of other headers go by it too. See docs/building.md.
#ifdef DARTQUANT_COMPILED
namespace dartquant {

DARTQUANT_COMPILED template void Cpu::gemm<float>(float, MatrixView<float const>, Op, MatrixView<float const>,
                                                  Op, float, MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::gemm<double>(double, MatrixView<double const>, Op,
                                                   MatrixView<double const>, Op, double,
                                                   MatrixView<double>) const;
DARTQUANT_COMPILED template void detail::gemm_tile<float>(Cpu const&, float, MatrixView<float const>, Op,
                                                          MatrixView<float const>, Op, float,
                                                          MatrixView<float>);
DARTQUANT_COMPILED template void detail::gemm_tile<double>(Cpu const&, double, MatrixView<double const>, Op,
                                                           MatrixView<double const>, Op, double,
                                                           MatrixView<double>);

DARTQUANT_COMPILED template void Cpu::gram<float>(MatrixView<float const>, MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::gram<double>(MatrixView<double const>, MatrixView<double>) const;
DARTQUANT_COMPILED template CholeskyStatus Cpu::cholesky<void>(MatrixView<double>) const;
DARTQUANT_COMPILED template double Cpu::condition_estimate<float>(MatrixView<float>) const;
DARTQUANT_COMPILED template double Cpu::condition_estimate<double>(MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::solve_lower<float>(MatrixView<float const>, Op, MatrixView<float>,
                                                         Fill) const;
DARTQUANT_COMPILED template void Cpu::solve_lower<double>(MatrixView<double const>, Op, MatrixView<double>,
                                                          Fill) const;
DARTQUANT_COMPILED template void Cpu::multiply_lower<float>(MatrixView<float const>, MatrixView<float const>,
                                                            MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::multiply_lower<double>(MatrixView<double const>,
                                                             MatrixView<double const>,
                                                             MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::set_diagonal<float>(float, MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::set_diagonal<double>(double, MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::skew_lower<float>(MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::skew_lower<double>(MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::householder_qr<float>(MatrixView<float const>, MatrixView<float>,
                                                            MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::householder_qr<double>(MatrixView<double const>, MatrixView<double>,
                                                             MatrixView<double>) const;

DARTQUANT_COMPILED template void Cpu::copy<float, float>(MatrixView<float>, MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::copy<float const, float>(MatrixView<float const>,
                                                               MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::copy<double const, double>(MatrixView<double const>,
                                                                 MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::copy<double const, float>(MatrixView<double const>,
                                                                MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::copy<double, float>(MatrixView<double>, MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::copy<float const, double>(MatrixView<float const>,
                                                                MatrixView<double>) const;
DARTQUANT_COMPILED template void Cpu::gather_rows<float>(MatrixView<float const>, VectorView<index_t const>,
                                                         MatrixView<float>) const;
DARTQUANT_COMPILED template void Cpu::normalize_rows<float>(MatrixView<float>) const;
DARTQUANT_COMPILED template double Cpu::frobenius_norm<float>(MatrixView<float const>) const;
DARTQUANT_COMPILED template double Cpu::frobenius_norm<double>(MatrixView<double const>) const;

}  // namespace dartquant
#endif
