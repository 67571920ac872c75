// Updates of records that wait for the draw that is the first to see them, in the order in which they are made: of a
// lower rank first, and of one rank as it made them. Not synchronised: Buffer guards them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "error.h"

namespace replay {

struct Update {
    uint32_t field;
    std::vector<std::byte> names_and_rows;
    uint64_t n;
};

class Updates {
  public:
    // Whether there are any that draw `sequence` sees.
    bool any(uint64_t sequence) const { return !waiting_.empty() && std::get<0>(waiting_.begin()->first) <= sequence; }

    // Number `number` of that rank. Throws RB_PEER for one that came before.
    void take(uint64_t draw, uint32_t rank, uint64_t number, Update &&update) {
        if (!waiting_.emplace(std::make_tuple(draw, rank, number), std::move(update)).second)
            fail(RB_PEER, "rank ", rank, " sent update ", number, " twice");
    }

    // All that draw `sequence` sees, which are forgotten.
    template <typename Apply> void apply(uint64_t sequence, Apply apply) {
        for (; any(sequence); waiting_.erase(waiting_.begin())) apply(waiting_.begin()->second);
    }

  private:
    std::map<std::tuple<uint64_t, uint32_t, uint64_t>, Update> waiting_;
};

}  // namespace replay
