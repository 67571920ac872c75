// The draws that a rank has requested and not received. Not synchronised: Buffer guards them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "staging.h"

namespace replay {

struct Draw {
    uint64_t n = 0;
    std::unique_ptr<Staging> staging;
    bool served = false;  // by this rank: only then is the number of its records known
    uint64_t expected = 0, arrived = 0;
    std::vector<int64_t> missing;  // [ranks] records that are expected and have not arrived; below 0 until served
    bool complete() const { return served && arrived == expected; }
};

class Draws {
  public:
    uint64_t requested() const { return requested_; }  // in all
    uint64_t first() const { return requested_ - draws_.size(); }
    size_t size() const { return draws_.size(); }
    bool empty() const { return draws_.empty(); }
    bool holds(uint64_t sequence) const { return sequence >= first() && sequence < requested_; }
    bool all_complete() const;

    Draw &at(uint64_t sequence) { return draws_[sequence - first()]; }
    const Draw &at(uint64_t sequence) const { return draws_[sequence - first()]; }
    Draw &front() { return draws_.front(); }
    const std::deque<Draw> &all() const { return draws_; }

    // Register a request; nothing has changed if it throws.
    void push(Draw &&draw);
    // The newest was not requested after all.
    std::unique_ptr<Staging> take_back();
    // The oldest is received.
    std::unique_ptr<Staging> pop();
    // Take over draws that were saved, of which the last is number `requested` - 1; the old ones go to `pool`.
    void restart(uint64_t requested, std::deque<Draw> &&draws, StagingPool &pool) noexcept;
    void clear(StagingPool &pool) noexcept;

  private:
    std::deque<Draw> draws_;
    uint64_t requested_ = 0;
};

}  // namespace replay
