#include <algorithm>

#include "sampling.h"

namespace replay {
namespace {

// Every set of records of all ranks is equally likely: the first n of a shuffle.
class Uniform : public SamplingPolicy {
  public:
    using SamplingPolicy::SamplingPolicy;

    bool looks_at_classes() const override { return false; }

  private:
    void pick(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) override {
        uint64_t size = census.total();
        Numbers numbers(stream, sequence);
        for (uint32_t i = 0; i < n; ++i, --size) {
            const Tally::Place place = census.stored.find(shuffle_.take(0, numbers.below(size), size));
            picks_.push_back({place.rank, ANY_CLASS, place.position, 1.0f});
        }
    }

    // What is chosen is what is picked, but where a place is chosen twice: then something lies there that was among the
    // last n.
    bool may_pick_from(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n,
                       uint32_t rank) override {
        uint64_t size = census.total();
        const uint64_t first = census.stored.before(rank), count = census.stored.on(rank);
        const bool among_the_last = first + count > size - n;
        chosen_.clear();
        Numbers numbers(stream, sequence);
        for (uint32_t i = 0; i < n; ++i, --size) {
            const uint64_t chosen = numbers.below(size);
            if (chosen - first < count) return true;
            if (among_the_last) chosen_.push_back(chosen);
        }
        std::sort(chosen_.begin(), chosen_.end());
        return std::adjacent_find(chosen_.begin(), chosen_.end()) != chosen_.end();
    }

    std::vector<uint64_t> chosen_;
};

const SamplingPolicy::Register<Uniform> registered("uniform");

}  // namespace
}  // namespace replay
