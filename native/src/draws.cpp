#include "draws.h"

#include <algorithm>
#include <utility>

namespace replay {

bool Draws::all_complete() const {
    return std::all_of(draws_.begin(), draws_.end(), [](const Draw &draw) { return draw.complete(); });
}

void Draws::push(Draw &&draw) {
    draws_.push_back(std::move(draw));
    ++requested_;
}

std::unique_ptr<Staging> Draws::take_back() {
    std::unique_ptr<Staging> staging = std::move(draws_.back().staging);
    draws_.pop_back();
    --requested_;
    return staging;
}

std::unique_ptr<Staging> Draws::pop() {
    std::unique_ptr<Staging> staging = std::move(draws_.front().staging);
    draws_.pop_front();
    return staging;
}

void Draws::clear(StagingPool &pool) noexcept {
    for (Draw &draw : draws_) pool.give_back(std::move(draw.staging));
    draws_.clear();
}

void Draws::restart(uint64_t requested, std::deque<Draw> &&draws, StagingPool &pool) noexcept {
    clear(pool);
    draws_.swap(draws);
    requested_ = requested;
}

}  // namespace replay
