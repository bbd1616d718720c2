// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <vector>

#include "peers/peers.hpp"

#if defined(DARTQUANT_OPENBLAS)
#include <cblas.h>

#include "ceilings.hpp"
#endif

namespace dartquant::bench {

#if defined(DARTQUANT_OPENBLAS)

double sgemm_seconds(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads) {
  auto const floats = [](std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); };
  HugeBuffer const x(floats(tokens * in)), w(floats(out * in)), y(floats(tokens * out));
  std::fill_n(x.as<float>(), tokens * in, 0.5f);
  for (std::int64_t i = 0; i < out * in; ++i) w.as<float>()[i] = static_cast<float>(i % 17) - 8.0f;
  openblas_set_num_threads(threads);
  int const products = tokens == 1 ? 16 : 2;  // see onednn.cpp
  std::vector<double> taken;
  double start = 0;
  for (int i = 0; i < 5 * products; ++i) {
    if (i % products == 0) start = process_seconds();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(tokens), static_cast<int>(out),
                static_cast<int>(in), 1.0f, x.as<float>(), static_cast<int>(in), w.as<float>(),
                static_cast<int>(in), 0.0f, y.as<float>(), static_cast<int>(out));
    if (i % products == products - 1) taken.push_back((process_seconds() - start) / threads / products);
  }
  return typical(taken);
}

char const* openblas_name() { return openblas_get_config(); }

#else

double sgemm_seconds(std::int64_t, std::int64_t, std::int64_t, int) { return 0; }
char const* openblas_name() { return "OpenBLAS is missing"; }

#endif

}  // namespace dartquant::bench
