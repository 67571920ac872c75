// Counts of ranks, of which the sum up to a rank and the rank of a position are found in O(log ranks) steps: a binary
// indexed tree (Fenwick 1994, A New Data Structure for Cumulative Frequency Tables).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace replay {

class Tally {
  public:
    // Where a position in the list of all lies: the rank, and its place among those of that rank.
    struct Place {
        uint32_t rank;
        uint64_t position;
    };

    explicit Tally(uint32_t ranks) : counts_(ranks), sums_(ranks + size_t{1}) {
        while (2 * top_ <= ranks) top_ *= 2;
    }

    uint64_t on(uint32_t rank) const { return counts_[rank]; }
    uint64_t total() const { return total_; }

    void set(uint32_t rank, uint64_t count) {
        const uint64_t more = count - counts_[rank];  // modulo 2^64, as all sums here
        if (more == 0) return;
        counts_[rank] = count;
        total_ += more;
        for (size_t node = rank + size_t{1}; node < sums_.size(); node += node & -node) sums_[node] += more;
    }

    // Of all ranks before this one.
    uint64_t before(uint32_t rank) const {
        uint64_t sum = 0;
        for (size_t node = rank; node; node -= node & -node) sum += sums_[node];
        return sum;
    }

    // `position` below the total.
    Place find(uint64_t position) const {
        size_t node = 0;
        for (size_t step = top_; step; step /= 2) {
            if (node + step >= sums_.size() || sums_[node + step] > position) continue;
            node += step;
            position -= sums_[node];
        }
        return {static_cast<uint32_t>(node), position};
    }

  private:
    std::vector<uint64_t> counts_;  // [ranks]
    std::vector<uint64_t> sums_;    // [ranks + 1], each of the last (n & -n) counts before n
    size_t top_ = 1;
    uint64_t total_ = 0;
};

}  // namespace replay
