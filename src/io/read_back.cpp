// SPDX-License-Identifier: Apache-2.0
#include "io/read_back.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include <dartquant/core/cpu.hpp>

#include "io/checksum.hpp"

namespace dartquant::detail {
namespace {

/// Bytes that are read one after the other.
constexpr std::uint64_t part_bytes = std::uint64_t{8} << 20;

}  // namespace

ReadBack::~ReadBack() { stop(); }

void ReadBack::start() {
  if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
}

void ReadBack::stop() {
  {
    std::lock_guard const lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ReadBack::add(std::uint64_t offset, std::span<std::byte const> bytes) {
  Piece const piece{offset, bytes.size(), checksum(bytes), file_.round()};
  std::lock_guard const lock(mutex_);
  pieces_.push_back(piece);
  if (rounds_ == file_.rounds_done()) return;
  rounds_ = file_.rounds_done();
  changed_.notify_one();
}

std::vector<ReadBack::Piece> ReadBack::take_written() {
  auto const first =
      std::partition(pieces_.begin(), pieces_.end(),
                     [done = file_.rounds_done()](Piece const& piece) { return piece.round + 2 > done; });
  std::vector<Piece> written(first, pieces_.end());
  pieces_.erase(first, pieces_.end());
  std::ranges::sort(written, {}, &Piece::at);
  return written;
}

void ReadBack::check(std::span<Piece const> pieces) {
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(largest_piece);
  std::uint64_t const begin = pieces.front().at, end = pieces.back().at + pieces.back().size;
  file_.forget(begin, end - begin);
  file_.expect_reads(begin, end - begin);
  for (Piece const& piece : pieces) {
    std::span<std::byte> const bytes(buffer.get(), piece.size);
    file_.read_at(piece.at, bytes);
    if (checksum(bytes) == piece.checksum) continue;
    std::lock_guard const lock(mutex_);
    bad_ = std::min(bad_.value_or(piece.at), piece.at);
  }
  file_.forget(begin, end - begin);
}

namespace {

/// Consecutive parts of pieces that are in the order of the file.
template <class Piece>
std::vector<std::span<Piece const>> parts_of(std::span<Piece const> pieces) {
  std::vector<std::span<Piece const>> parts;
  for (std::size_t first = 0, i = 0; i < pieces.size(); ++i) {
    std::uint64_t const end = pieces[i].at + pieces[i].size;
    bool const last =
        i + 1 == pieces.size() || end != pieces[i + 1].at || end - pieces[first].at >= part_bytes;
    if (!last) continue;
    parts.push_back(pieces.subspan(first, i + 1 - first));
    first = i + 1;
  }
  return parts;
}

}  // namespace

void ReadBack::work() {
  std::unique_lock lock(mutex_);
  while (!stop_ && !error_) {
    std::vector<Piece> const written = take_written();
    if (written.empty()) {
      changed_.wait(lock);
      continue;
    }
    for (std::span<Piece const> const part : parts_of(std::span(written))) {
      if (stop_) {  // left to all threads
        pieces_.insert(pieces_.end(), part.begin(), part.end());
        continue;
      }
      lock.unlock();
      std::exception_ptr error;
      try {
        check(part);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error) error_ = error;
    }
  }
}

std::optional<std::uint64_t> ReadBack::finish(int threads) {
  stop();
  if (error_) std::rethrow_exception(error_);
  std::ranges::sort(pieces_, {}, &Piece::at);
  auto const parts = parts_of(std::span(std::as_const(pieces_)));
  Cpu(threads).parallel_for(static_cast<index_t>(parts.size()), 1,
                            [&](index_t part, index_t) { check(parts[static_cast<std::size_t>(part)]); });
  pieces_.clear();
  return bad_;
}

}  // namespace dartquant::detail
