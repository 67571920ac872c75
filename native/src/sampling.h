// Sampling policies over the shards of all ranks. Every rank computes the same picks for a draw, from the numbers of
// records and the stream of the rank that draws; so each knows what it has to send without being told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "philox.h"

namespace replay {

// How many records each rank holds, in all and per class.
struct Census {
    Census(uint32_t ranks, uint32_t num_classes)
        : ranks(ranks), num_classes(num_classes), stored(ranks), of_class(num_classes),
          shares(static_cast<size_t>(num_classes) * ranks) {}

    void set_class(uint32_t rank, uint32_t label, uint64_t count) {
        uint64_t &share = shares[static_cast<size_t>(label) * ranks + rank];
        of_class[label] += count - share;
        share = count;
    }
    uint64_t class_on(uint32_t rank, uint32_t label) const { return shares[static_cast<size_t>(label) * ranks + rank]; }
    uint64_t total() const;

    uint32_t ranks, num_classes;
    std::vector<uint64_t> stored;    // [ranks]
    std::vector<uint64_t> of_class;  // [num_classes], over all ranks
    std::vector<uint64_t> shares;    // [num_classes][ranks]
};

constexpr uint32_t ANY_CLASS = UINT32_MAX;

struct Pick {
    uint32_t rank;
    uint32_t label;     // ANY_CLASS: `position` is one among all records of the rank
    uint64_t position;  // in the rank's list of that class
    float weight;
};

// A shuffle of the numbers from 0, of which only those are kept that are not in their place: a table of open addresses.
class Shuffle {
  public:
    void begin(uint64_t moves);  // room for so many calls of `take`
    // What lies at `chosen` in the list of `size` that begins at `base`; what lies last takes its place.
    uint64_t take(uint64_t base, uint64_t chosen, uint64_t size);

  private:
    struct Entry {
        uint64_t place, content;
        uint64_t round = 0;  // entries of earlier rounds count as empty
    };
    Entry &find(uint64_t place);

    std::vector<Entry> table_;
    uint64_t mask_ = 0, round_ = 0;
};

class Drawer {
  public:
    // min(n, stored everywhere) picks of draw `sequence` under a policy, all different; valid until the next call.
    const std::vector<Pick> &pick(int policy, const Census &census, const Stream &stream, uint64_t sequence,
                                  uint64_t n);

  private:
    void uniform(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n);
    void by_class(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n);

    std::vector<Pick> picks_;
    Shuffle shuffle_;
    std::vector<uint32_t> classes_;
    std::vector<uint64_t> left_;
};

}  // namespace replay
