#include "sampling.h"

#include <algorithm>

namespace replay {

SamplingPolicy::Policies &SamplingPolicy::registry() {
    static Policies policies("sampling");
    return policies;
}

const std::vector<Pick> &SamplingPolicy::draw(const Census &census, const Stream &stream, uint64_t sequence,
                                              uint64_t n) {
    picks_.clear();
    n = std::min(n, census.total());
    shuffle_.begin(n);
    pick(census, stream, sequence, n);
    return picks_;
}

bool SamplingPolicy::may_pick(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n,
                              uint32_t rank) {
    n = std::min(n, census.total());
    return n && census.stored.on(rank) && may_pick_from(census, stream, sequence, n, rank);
}

}  // namespace replay
