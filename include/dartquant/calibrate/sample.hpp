// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <dartquant/core/error.hpp>
#include <dartquant/core/half.hpp>
#include <dartquant/core/matrix.hpp>
#include <dartquant/core/random.hpp>
#include <dartquant/core/view.hpp>

namespace dartquant {

/// A bounded uniform sample of activation rows [channels], fed batch by batch from a forward pass, so that
/// calibration data is never stored as a whole. Bottom-k sampling: every row has an id, a Philox number keyed
/// by the seed is its priority, and the `capacity` rows of smallest priority stay. The rows kept therefore
/// depend on the seed and the set of ids alone: not on the order of batches, nor on threads, nor on how the
/// work was split among samples that are merged afterwards. Every subset of `capacity` rows is equally
/// likely.
///
/// Ids are the caller's: the position of the token in the calibration set is a good one. An id that is in the
/// sample already is ignored (the first row given under an id stays), so give each row an id of its own.
///
/// Memory: 4 capacity channels bytes at most, allocated as rows arrive. `add`, `merge` and the readers may be
/// called from any threads at once.
class ActivationSample {
 public:
  /// Errors: InvalidArgument when channels or capacity is below 1.
  ActivationSample(index_t channels, index_t capacity, std::uint64_t seed)
      : channels_(channels), capacity_(capacity), seed_(seed) {
    detail::require(channels >= 1, "[ActivationSample] ", channels, " channels: at least one is needed");
    detail::require(capacity >= 1, "[ActivationSample] capacity ", capacity, ": at least one row is needed");
  }

  /// Offers the rows of `batch` [rows, channels] under the ids first_row_id, first_row_id + 1, ... T: float,
  /// double, Half or BFloat16; any stride. Errors: InvalidArgument when the channels differ or a value is not
  /// finite (then no row of this batch is taken). Cost: one Philox block per row, one copy per row kept.
  template <class T>
  void add(MatrixView<T const> batch, std::uint64_t first_row_id) {
    detail::require(batch.cols() == channels_, "[ActivationSample] ", batch.cols(),
                    " channels given to a sample of ", channels_);
    for (index_t row = 0; row < batch.rows(); ++row)
      for (index_t channel = 0; channel < channels_; ++channel)
        detail::require(std::isfinite(to_float(batch(row, channel))), "[ActivationSample] row ", row, " (id ",
                        first_row_id + static_cast<std::uint64_t>(row), "), channel ", channel,
                        " is not finite as a float: find out which layer overflows before calibrating");
    std::lock_guard lock(*mutex_);
    seen_ += static_cast<std::uint64_t>(batch.rows());
    for (index_t row = 0; row < batch.rows(); ++row)
      if (float* const kept = admit(first_row_id + static_cast<std::uint64_t>(row)))
        for (index_t channel = 0; channel < channels_; ++channel)
          kept[channel] = to_float(batch(row, channel));
  }
  template <class T>
  requires(!std::is_const_v<T>) void add(MatrixView<T> batch, std::uint64_t first_row_id) {
    add(MatrixView<T const>(batch), first_row_id);
  }
  /// Eigen matrices, maps and blocks.
  template <class M>
  requires requires(M const& m) {
    typename M::Scalar;
    m.outerStride();
  }
  void add(M const& batch, std::uint64_t first_row_id) {
    add(MatrixView<typename M::Scalar const>(batch), first_row_id);
  }

  /// Takes over what `other` has seen, as if its rows had been added here. Errors: InvalidArgument when
  /// channels, capacity or seed differ, or a sample is merged with itself.
  void merge(ActivationSample const& other) {
    detail::require(this != &other, "[ActivationSample::merge] a sample cannot be merged with itself");
    detail::require(channels_ == other.channels_ && capacity_ == other.capacity_ && seed_ == other.seed_,
                    "[ActivationSample::merge] ", other.channels_, " channels, capacity ", other.capacity_,
                    ", seed ", other.seed_, " into ", channels_, ", ", capacity_, ", ", seed_,
                    ": all three must be equal");
    std::scoped_lock lock(*mutex_, *other.mutex_);
    seen_ += other.seen_;
    for (Entry const& entry : other.heap_)
      if (float* const kept = admit(entry.id)) std::copy_n(other.slot(entry.slot), channels_, kept);
  }

  [[nodiscard]] index_t channels() const { return channels_; }
  [[nodiscard]] index_t capacity() const { return capacity_; }
  /// Rows held now.
  [[nodiscard]] index_t size() const {
    std::lock_guard lock(*mutex_);
    return static_cast<index_t>(heap_.size());
  }
  /// Rows offered so far, ignored ones included.
  [[nodiscard]] std::uint64_t seen() const {
    std::lock_guard lock(*mutex_);
    return seen_;
  }

  /// The sample [size, channels], sorted by id.
  [[nodiscard]] RowMatrix<float> rows() const {
    std::lock_guard lock(*mutex_);
    std::vector<Entry> sorted = heap_;
    std::sort(sorted.begin(), sorted.end(), [](Entry const& a, Entry const& b) { return a.id < b.id; });
    RowMatrix<float> result(static_cast<index_t>(sorted.size()), channels_);
    for (std::size_t i = 0; i < sorted.size(); ++i)
      std::copy_n(slot(sorted[i].slot), channels_, result.data() + static_cast<index_t>(i) * channels_);
    return result;
  }

 private:
  struct Entry {
    std::uint64_t priority, id;
    index_t slot;
    bool operator<(Entry const& other) const {
      return priority != other.priority ? priority < other.priority : id < other.id;
    }
  };
  static constexpr index_t slots_per_block = 64;

  [[nodiscard]] float* slot(index_t index) const {
    return blocks_[static_cast<std::size_t>(index / slots_per_block)].get() +
           index % slots_per_block * channels_;
  }

  /// Where to write the row `id`, or null when it does not belong to the sample. Called under the lock.
  float* admit(std::uint64_t id) {
    Entry entry{Philox(seed_, 0x53414D504C45u).bits(id), id, static_cast<index_t>(heap_.size())};
    bool const full = entry.slot == capacity_;
    if ((full && !(entry < heap_.front())) || ids_.contains(id)) return nullptr;
    if (full) {
      std::pop_heap(heap_.begin(), heap_.end());
      entry.slot = heap_.back().slot;
      ids_.erase(heap_.back().id);
      heap_.pop_back();
    } else if (entry.slot % slots_per_block == 0) {
      index_t const slots = std::min(slots_per_block, capacity_ - entry.slot);
      blocks_.push_back(std::make_unique<float[]>(static_cast<std::size_t>(slots * channels_)));
    }
    ids_.insert(id);
    heap_.push_back(entry);
    std::push_heap(heap_.begin(), heap_.end());
    return slot(entry.slot);
  }

  index_t channels_, capacity_;
  std::uint64_t seed_, seen_ = 0;
  std::vector<Entry> heap_;  // the largest priority in front
  std::unordered_set<std::uint64_t> ids_;
  std::vector<std::unique_ptr<float[]>> blocks_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
};

}  // namespace dartquant
