// A shuffle of the numbers from 0, of which only those are kept that are not in their place: a table of open addresses.
// So a few of many are taken without a list of all (Fisher and Yates, Durstenfeld's form).
#pragma once

#include <cstdint>
#include <vector>

namespace replay {

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

}  // namespace replay
