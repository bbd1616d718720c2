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

namespace {

template <class T, class Product>
double seconds_with(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads,
                    Product const& product) {
  auto const bytes = [](std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(T); };
  HugeBuffer const x(bytes(tokens * in)), w(bytes(out * in)), y(bytes(tokens * out));
  std::fill_n(x.as<T>(), tokens * in, T(0.5));
  for (std::int64_t i = 0; i < out * in; ++i) w.as<T>()[i] = static_cast<T>(i % 17) - T(8);
  openblas_set_num_threads(threads);
  int const products = tokens == 1 ? 16 : 2;  // see onednn.cpp
  std::vector<double> taken;
  double start = 0;
  for (int i = 0; i < 5 * products; ++i) {
    if (i % products == 0) start = process_seconds();
    product(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(tokens), static_cast<int>(out),
            static_cast<int>(in), T(1), x.as<T>(), static_cast<int>(in), w.as<T>(), static_cast<int>(in),
            T(0), y.as<T>(), static_cast<int>(out));
    if (i % products == products - 1) taken.push_back((process_seconds() - start) / threads / products);
  }
  return typical(taken);
}

}  // namespace

double sgemm_seconds(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads) {
  return seconds_with<float>(tokens, out, in, threads, cblas_sgemm);
}
double dgemm_seconds(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads) {
  return seconds_with<double>(tokens, out, in, threads, cblas_dgemm);
}

char const* openblas_name() { return openblas_get_config(); }

#else

double sgemm_seconds(std::int64_t, std::int64_t, std::int64_t, int) { return 0; }
double dgemm_seconds(std::int64_t, std::int64_t, std::int64_t, int) { return 0; }
char const* openblas_name() { return "OpenBLAS is missing"; }

#endif

}  // namespace dartquant::bench
