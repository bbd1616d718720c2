// SPDX-License-Identifier: Apache-2.0
#pragma once

// Packed weights become bytes for the 512-bit product: the nibbles of two panels side by side, one chunk
// ahead of the product and a line at a time between its dot products, which leave the units that this takes
// idle.

#include "cpu/avx512_products.hpp"

namespace dartquant::cpu {
namespace {

/// Unpacks chunks of one or two panels: for every piece [line][low, high nibbles][panel][64] and, where it
/// ends its group, the scales [panel][16].
class Unpacker {
 public:
  /// Starts on a chunk and asks for its first lines.
  void start(Panels const& w, std::int64_t panel, std::int64_t panels, Chunk const& chunk, std::uint8_t* to) {
    Piece const& first = chunk.pieces[0];
    from_ = group_of(w, panel, first.group).lines + 64 * first.first;
    next_panel_ = w.bytes;
    panels_ = panels;
    to_ = to;
    piece_ = chunk.pieces;
    end_ = piece_ + chunk.count;
    left_ = first.lines;
    for (std::int64_t at = 0; at < ahead; at += 64) ask(at);
  }
  /// Nothing to do.
  void stop() { piece_ = end_ = nullptr; }
  [[nodiscard]] bool done() const { return piece_ == end_; }

  /// Unpacks one line of two panels, if any are left.
  inline __attribute__((always_inline)) void step() {
    if (done()) return;
    ask(ahead);
    line(from_, to_);
    line(from_ + next_panel_, to_ + 64);
    next(2);
  }
  /// Unpacks what is left.
  void finish() {
    while (!done()) {
      for (std::int64_t k = 0; k < panels_; ++k) {
        ask(ahead);
        __m512i const both = _mm512_load_si512(from_ + k * next_panel_), low = _mm512_set1_epi8(15);
        _mm512_store_si512(to_ + 64 * k, _mm512_and_si512(both, low));
        _mm512_store_si512(to_ + 64 * (panels_ + k), _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
      }
      next(panels_);
    }
  }

 private:
  static constexpr std::int64_t ahead = 1024;  // bytes of each panel: the latency of memory

  void ask(std::int64_t bytes) const {
    for (std::int64_t k = 0; k < panels_; ++k)
      _mm_prefetch(reinterpret_cast<char const*>(from_ + k * next_panel_ + bytes), _MM_HINT_T0);
  }
  /// One line of one panel of two, in two registers that nothing else uses: left free, the compiler spills
  /// sums for it.
  static inline __attribute__((always_inline)) void line(std::uint8_t const* from, std::uint8_t* to) {
    using Line = std::uint8_t[64];
    __asm__ volatile(
        "vmovdqa64 %2, %%zmm30\n\t"
        "vpandd %3%{1to16%}, %%zmm30, %%zmm31\n\t"
        "vpsrlw $4, %%zmm30, %%zmm30\n\t"
        "vpandd %3%{1to16%}, %%zmm30, %%zmm30\n\t"
        "vmovdqa64 %%zmm31, %0\n\t"
        "vmovdqa64 %%zmm30, %1"
        : "=m"(*reinterpret_cast<Line*>(to)), "=m"(*reinterpret_cast<Line*>(to + 128))
        : "m"(*reinterpret_cast<Line const*>(from)), "m"(low_bits)
        : "xmm30", "xmm31");
  }
  /// Goes on to the next line, over the scales where a group ends.
  inline __attribute__((always_inline)) void next(std::int64_t panels) {
    from_ += 64;
    to_ += 128 * panels;
    if (--left_ > 0) return;
    if (piece_->ends) {
      for (std::int64_t k = 0; k < panels; ++k, to_ += 64) std::memcpy(to_, from_ + k * next_panel_, 64);
      from_ += 64;
    }
    ++piece_;
    left_ = done() ? 0 : piece_->lines;
  }

  static constexpr std::uint32_t low_bits = 0x0F0F0F0Fu;
  std::uint8_t const* from_ = nullptr;
  std::uint8_t* to_ = nullptr;
  std::int64_t next_panel_ = 0, panels_ = 0, left_ = 0;
  Piece const *piece_ = nullptr, *end_ = nullptr;
};

}  // namespace
}  // namespace dartquant::cpu
