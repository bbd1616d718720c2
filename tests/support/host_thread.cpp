// SPDX-License-Identifier: Apache-2.0
#include "support/host_thread.hpp"

#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dartquant::test {
namespace {

constexpr std::size_t stack_bytes = 128 * 1024;
constexpr std::size_t slot_bytes = 256;    // of one lane in an exchange
constexpr std::size_t guard_bytes = 1024;  // on both sides of shared memory
constexpr std::byte fill{0xA5}, guard{0xC3};

struct PendingCopy {
  void* target;
  void const* source;
  int bytes;
};

/// What a fiber waits for.
enum class Waits { no, for_block, for_warp, for_good };

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack{new char[stack_bytes]};  // not initialised: most of it is never touched
  Waits waits = Waits::no;
  std::vector<std::vector<PendingCopy>> groups{};  // committed, oldest first
  std::vector<PendingCopy> open{};
};

/// The lanes of a warp that have handed in a value. Two buffers in turn: a lane can only be one exchange
/// ahead of the slowest.
struct Warp {
  std::array<std::vector<std::byte>, 2> slots{std::vector<std::byte>(32 * slot_bytes),
                                              std::vector<std::byte>(32 * slot_bytes)};
  int arrived = 0, turn = 0;
};

}  // namespace

class HostBlock {
 public:
  HostBlock(cuda::Grid const& grid, int threads, ThreadOrder order,
            std::function<void(HostThread const&)> const& body)
      : grid_(grid),
        body_(body),
        fibers_(static_cast<std::size_t>(threads)),
        warps_(static_cast<std::size_t>((threads + 31) / 32)),
        order_(static_cast<std::size_t>(threads)),
        memory_(grid.shared_bytes + 2 * guard_bytes + 128),
        eager_(order == ThreadOrder::eager) {
    std::iota(order_.begin(), order_.end(), 0);
    if (order == ThreadOrder::falling) std::reverse(order_.begin(), order_.end());
    if (order == ThreadOrder::shuffled) std::shuffle(order_.begin(), order_.end(), std::mt19937(7));
    auto const address = reinterpret_cast<std::uintptr_t>(memory_.data()) + guard_bytes;
    shared_ = memory_.data() + guard_bytes + (128 - address % 128) % 128;
  }

  void run(int x, int y, int z) {
    x_ = x, y_ = y, z_ = z;
    std::fill(memory_.begin(), memory_.end(), guard);
    std::fill(shared_, shared_ + grid_.shared_bytes, fill);
    for (Warp& warp : warps_) warp.arrived = warp.turn = 0;
    for (std::size_t i = 0; i < fibers_.size(); ++i) start(i);
    while (take_turns()) {
    }
    check_guards();
  }

  void yield(int index, Waits waits) {
    Fiber& fiber = fibers_[static_cast<std::size_t>(index)];
    fiber.waits = waits;
    swapcontext(&fiber.context, &scheduler_);
  }

  std::byte const* exchange(int index, void const* value, std::size_t bytes) {
    Warp& warp = warps_[static_cast<std::size_t>(index / 32)];
    int const turn = warp.turn, lanes = std::min<int>(32, static_cast<int>(fibers_.size()) - index / 32 * 32);
    std::byte* const slots = warp.slots[static_cast<std::size_t>(turn % 2)].data();
    if (bytes > 0) std::memcpy(slots + static_cast<std::size_t>(index % 32) * slot_bytes, value, bytes);
    if (++warp.arrived == lanes) {
      warp.arrived = 0;
      ++warp.turn;
      for (int lane = 0; lane < lanes; ++lane) {
        Fiber& fiber = fibers_[static_cast<std::size_t>(index / 32 * 32 + lane)];
        if (fiber.waits == Waits::for_warp) fiber.waits = Waits::no;
      }
    } else {
      yield(index, Waits::for_warp);
    }
    return slots;
  }

  Fiber& fiber(int index) { return fibers_[static_cast<std::size_t>(index)]; }
  [[noreturn]] void fail(std::string const& what) const {
    throw std::logic_error("[run_on_host] block (" + std::to_string(x_) + ", " + std::to_string(y_) + ", " +
                           std::to_string(z_) + "): " + what);
  }

  cuda::Grid const grid_;
  int x_ = 0, y_ = 0, z_ = 0;
  std::byte* shared_ = nullptr;
  int threads() const { return static_cast<int>(fibers_.size()); }

 private:
  static void enter(unsigned high, unsigned low, unsigned index) {
    auto* const block = reinterpret_cast<HostBlock*>((static_cast<std::uintptr_t>(high) << 32) | low);
    try {
      block->body_(HostThread(*block, static_cast<int>(index)));
    } catch (...) {
      block->thrown_ = std::current_exception();
    }
    block->fibers_[index].waits = Waits::for_good;
    swapcontext(&block->fibers_[index].context, &block->scheduler_);
  }

  void start(std::size_t index) {
    Fiber& fiber = fibers_[index];
    fiber.waits = Waits::no;
    fiber.groups.clear();
    fiber.open.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    auto const self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&enter), 3, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self), static_cast<unsigned>(index));
  }

  /// Runs every thread until it waits. False when all have ended.
  bool take_turns() {
    bool moved = false;
    for (std::size_t turn = 0; turn < order_.size(); ++turn) {
      Fiber& fiber = fibers_[static_cast<std::size_t>(order_[turn])];
      bool ran = false;
      while (fiber.waits == Waits::no) {
        moved = ran = true;
        swapcontext(&scheduler_, &fiber.context);
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
      }
      if (eager_ && ran) turn = static_cast<std::size_t>(-1);  // from the first again
    }
    auto const waiting = [&](Waits waits) {
      return std::count_if(fibers_.begin(), fibers_.end(), [&](Fiber const& f) { return f.waits == waits; });
    };
    auto const ended = static_cast<std::size_t>(waiting(Waits::for_good));
    auto const at_barrier = static_cast<std::size_t>(waiting(Waits::for_block));
    if (ended == fibers_.size()) return false;
    if (at_barrier == fibers_.size()) {
      for (Fiber& fiber : fibers_) fiber.waits = Waits::no;
    } else if (!moved) {
      fail(std::to_string(at_barrier) + " threads wait at a barrier, " + std::to_string(ended) +
           " have ended, " + std::to_string(waiting(Waits::for_warp)) + " wait for their warp");
    }
    return true;
  }

  void check_guards() const {
    auto const clean = [](std::byte const* first, std::byte const* last) {
      return std::all_of(first, last, [](std::byte b) { return b == guard; });
    };
    if (!clean(memory_.data(), shared_) ||
        !clean(shared_ + grid_.shared_bytes, memory_.data() + memory_.size()))
      fail("a thread wrote outside the " + std::to_string(grid_.shared_bytes) + " bytes of shared memory");
  }

  std::function<void(HostThread const&)> const& body_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<int> order_;
  std::vector<std::byte> memory_;
  bool eager_;
  ucontext_t scheduler_{};
  std::exception_ptr thrown_{};
};

int HostThread::count() const { return block_->threads(); }
int HostThread::block_x() const { return block_->x_; }
int HostThread::block_y() const { return block_->y_; }
int HostThread::block_z() const { return block_->z_; }
int HostThread::blocks_x() const { return block_->grid_.blocks_x; }
int HostThread::blocks_y() const { return block_->grid_.blocks_y; }
int HostThread::blocks_z() const { return block_->grid_.blocks_z; }
std::byte* HostThread::shared() const { return block_->shared_; }
void HostThread::synchronize() const { block_->yield(index_, Waits::for_block); }
void HostThread::synchronize_warp() const { block_->exchange(index_, nullptr, 0); }
std::byte const* HostThread::exchange(void const* value, std::size_t bytes) const {
  return block_->exchange(index_, value, bytes);
}

void HostThread::later(void* shared, void const* global, int bytes) const {
  auto const aligned = [&](void const* p) {
    return reinterpret_cast<std::uintptr_t>(p) % static_cast<unsigned>(bytes) == 0;
  };
  if (!aligned(shared) || !aligned(global))
    block_->fail("an asynchronous copy of " + std::to_string(bytes) + " bytes is not aligned to them");
  block_->fiber(index_).open.push_back({shared, global, bytes});
}

void HostThread::commit_copies() const {
  Fiber& fiber = block_->fiber(index_);
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void HostThread::arrive(int pending) const {
  auto& groups = block_->fiber(index_).groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (PendingCopy const& copy : groups.front())
      std::memcpy(copy.target, copy.source, static_cast<std::size_t>(copy.bytes));
    groups.erase(groups.begin());
  }
}

namespace detail {

void run_on_host(cuda::Grid const& grid, int threads, ThreadOrder order,
                 std::function<void(HostThread const&)> const& body) {
  HostBlock block(grid, threads, order, body);
  for (int z = 0; z < grid.blocks_z; ++z)
    for (int y = 0; y < grid.blocks_y; ++y)
      for (int x = 0; x < grid.blocks_x; ++x) block.run(x, y, z);
}

}  // namespace detail
}  // namespace dartquant::test
