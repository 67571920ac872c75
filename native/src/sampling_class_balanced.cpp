#include <algorithm>

#include "sampling.h"

namespace replay {
namespace {

// Each time a class of those that are not used up, then one of its records that was not taken.
class ClassBalanced : public SamplingPolicy {
  public:
    using SamplingPolicy::SamplingPolicy;

    bool looks_at_classes() const override { return true; }

  private:
    void pick(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) override {
        begin(census);
        const double classes = static_cast<double>(classes_.size()), total = static_cast<double>(census.total());
        Numbers numbers(stream, sequence);
        for (uint32_t i = 0; i < n; ++i) {
            const Choice choice = choose(numbers);
            const uint64_t base = uint64_t{choice.label} << 40;  // lists of classes lie apart
            const Tally::Place place =
                census.shares[choice.label].find(shuffle_.take(base, choice.chosen, choice.size));
            const auto weight =
                static_cast<float>(classes * static_cast<double>(census.of_class[choice.label]) / total);
            picks_.push_back({place.rank, choice.label, place.position, weight});
        }
    }

    // See `uniform`; here each class has a list of its own.
    bool may_pick_from(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n,
                       uint32_t rank) override {
        begin(census);
        bool among_the_last = false;
        chosen_.clear();
        Numbers numbers(stream, sequence);
        for (uint32_t i = 0; i < n; ++i) {
            const Choice choice = choose(numbers);
            chosen_.push_back(uint64_t{choice.label} << 40 | choice.chosen);
            const Tally &shares = census.shares[choice.label];
            const uint64_t count = shares.on(rank);
            if (count == 0) continue;
            const uint64_t first = shares.before(rank);
            if (choice.chosen - first < count) return true;
            among_the_last |= first + count >= choice.size;
        }
        if (!among_the_last) return false;
        std::sort(chosen_.begin(), chosen_.end());
        return std::adjacent_find(chosen_.begin(), chosen_.end()) != chosen_.end();
    }

    struct Choice {
        uint32_t label;
        uint64_t chosen, size;  // in a list of so many
    };

    void begin(const Census &census) {
        classes_.clear();
        for (uint32_t label = 0; label < census.num_classes; ++label)
            if (census.of_class[label]) classes_.push_back(label);
        left_ = census.of_class;
    }

    Choice choose(Numbers &numbers) {
        const uint64_t place = numbers.below(classes_.size());
        const uint32_t label = classes_[place];
        const uint64_t size = left_[label]--;
        if (size == 1) classes_.erase(classes_.begin() + static_cast<ptrdiff_t>(place));
        return {label, numbers.below(size), size};
    }

    std::vector<uint32_t> classes_;
    std::vector<uint64_t> left_, chosen_;
};

const SamplingPolicy::Register<ClassBalanced> registered("class_balanced");

}  // namespace
}  // namespace replay
