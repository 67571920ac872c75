#include "sampling.h"

#include <algorithm>
#include <numeric>

namespace replay {

uint64_t Census::total() const { return std::accumulate(stored.begin(), stored.end(), uint64_t{0}); }

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

}  // namespace replay
