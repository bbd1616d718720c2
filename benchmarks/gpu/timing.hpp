// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include <dartquant/cuda/error.hpp>

#include <cuda_runtime_api.h>

namespace dartquant::bench {

/// The median time of `work`, which enqueues on `stream`, between two events; in milliseconds. `calls` calls
/// lie between the events, for work that is shorter than the events are exact. Let `work` go round several
/// sets of buffers where one would fit into the cache.
inline double median_milliseconds(cudaStream_t stream, std::function<void()> const& work, int repeats = 7,
                                  int calls = 1) {
  cudaEvent_t first{}, last{};
  cuda::check(cudaEventCreate(&first));
  cuda::check(cudaEventCreate(&last));
  for (int i = 0; i < 2; ++i) work();
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    cuda::check(cudaEventRecord(first, stream));
    for (int call = 0; call < calls; ++call) work();
    cuda::check(cudaEventRecord(last, stream));
    cuda::check(cudaEventSynchronize(last));
    float milliseconds = 0;
    cuda::check(cudaEventElapsedTime(&milliseconds, first, last));
    times.push_back(static_cast<double>(milliseconds) / calls);
  }
  cuda::check(cudaEventDestroy(first));
  cuda::check(cudaEventDestroy(last));
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<std::size_t>(repeats / 2)];
}

/// What `record` enqueues on the stream it is given, as a graph: the host's time for the calls is spent once,
/// as by programs that decode.
class Graph {
 public:
  explicit Graph(std::function<void(cudaStream_t)> const& record) {
    cudaGraph_t graph{};
    cuda::check(cudaStreamCreate(&stream_));
    cuda::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
    record(stream_);
    cuda::check(cudaStreamEndCapture(stream_, &graph));
    cuda::check(cudaGraphInstantiate(&executable_, graph, 0));
    cuda::check(cudaGraphDestroy(graph));
  }
  Graph(Graph const&) = delete;
  Graph& operator=(Graph const&) = delete;
  ~Graph() {
    cudaGraphExecDestroy(executable_);
    cudaStreamDestroy(stream_);
  }
  /// The median time of one run; in milliseconds.
  [[nodiscard]] double median_milliseconds(int repeats = 7) const {
    return bench::median_milliseconds(
        stream_, [this] { cuda::check(cudaGraphLaunch(executable_, stream_)); }, repeats);
  }

 private:
  cudaStream_t stream_{};
  cudaGraphExec_t executable_{};
};

/// Device memory of a benchmark.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count) {
    cuda::check(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(1, count) * sizeof(T)));
  }
  Buffer(Buffer const&) = delete;
  Buffer& operator=(Buffer const&) = delete;
  ~Buffer() { cudaFree(data_); }
  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] std::size_t bytes() const { return count_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

}  // namespace dartquant::bench
