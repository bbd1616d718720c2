// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include "peers/peers.hpp"

#if defined(DARTQUANT_ONEDNN)
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "ceilings.hpp"
#endif

namespace dartquant::bench {

#if defined(DARTQUANT_ONEDNN)
namespace {

using dnnl::memory;

double seconds_with(memory::data_type x_type, std::int64_t tokens, std::int64_t out, std::int64_t in,
                    std::int64_t bytes) {
  dnnl::engine const engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  memory::desc const x({tokens, in}, x_type, memory::format_tag::ab);
  memory::desc const any({in, out}, memory::data_type::s8, memory::format_tag::any);
  memory::desc const y({tokens, out}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::primitive_attr scaled;
  scaled.set_output_scales(0, {0.01f});
  dnnl::matmul::primitive_desc const description(dnnl::matmul::desc(x, any, y), scaled, engine);
  dnnl::matmul const product(description);
  memory::desc const packed = description.weights_desc();
  std::size_t const each = (packed.get_size() + 4095) / 4096 * 4096;
  std::size_t const copies = (static_cast<std::size_t>(bytes) + each - 1) / each;
  HugeBuffer const w(each * copies), levels(x.get_size()), values(y.get_size()),
      plain(static_cast<std::size_t>(in * out));
  memory::desc const transposed({in, out}, memory::data_type::s8, memory::format_tag::ba);
  memory source(transposed, engine, plain.as());
  memory const activations(x, engine, levels.as()), result(y, engine, values.as());
  std::vector<memory> weights;
  for (std::size_t i = 0; i < copies; ++i) {
    weights.emplace_back(packed, engine, w.as() + i * each);
    dnnl::reorder(source, weights.back()).execute(stream, source, weights.back());
  }
  stream.wait();
  // The clock of a process lags behind its other threads by up to a tick of 4 ms: many products at a time.
  std::size_t const products = tokens == 1 ? 20 * copies : 8;
  std::vector<double> seconds;
  for (int round = 0; round < 6; ++round) {
    double const start = process_seconds();
    for (std::size_t i = 0; i < products; ++i) {
      product.execute(
          stream,
          {{DNNL_ARG_SRC, activations}, {DNNL_ARG_WEIGHTS, weights[i % copies]}, {DNNL_ARG_DST, result}});
      stream.wait();
    }
    double const taken = (process_seconds() - start) / omp_get_max_threads();
    seconds.push_back(taken / static_cast<double>(products));
  }
  return typical(seconds);
}

}  // namespace

double onednn_seconds(std::int64_t tokens, std::int64_t out, std::int64_t in, int threads,
                      std::int64_t bytes) {
  omp_set_num_threads(threads);
  return std::min(seconds_with(memory::data_type::s8, tokens, out, in, bytes),
                  seconds_with(memory::data_type::u8, tokens, out, in, bytes));
}

char const* onednn_name() {
  static std::string const name = [] {
    dnnl_version_t const* const version = dnnl_version();
    char text[64];
    std::snprintf(text, sizeof text, "oneDNN %d.%d.%d, instruction set 0x%x", version->major, version->minor,
                  version->patch, static_cast<unsigned>(dnnl_get_effective_cpu_isa()));
    return std::string(text);
  }();
  return name.c_str();
}

#else

double onednn_seconds(std::int64_t, std::int64_t, std::int64_t, int, std::int64_t) { return 0; }
char const* onednn_name() { return "oneDNN is missing"; }

#endif

}  // namespace dartquant::bench
