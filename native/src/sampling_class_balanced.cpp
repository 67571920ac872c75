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
        classes_.clear();
        for (uint32_t label = 0; label < census.num_classes; ++label)
            if (census.of_class[label]) classes_.push_back(label);
        left_ = census.of_class;
        const double classes = static_cast<double>(classes_.size()), total = static_cast<double>(census.total());
        for (uint32_t i = 0; i < n; ++i) {
            const uint64_t place = stream.below(classes_.size(), sequence, 2 * i);
            const uint32_t label = classes_[place];
            const uint64_t base = uint64_t{label} << 40, size = left_[label]--;  // lists of classes lie apart
            uint64_t position = shuffle_.take(base, stream.below(size, sequence, 2 * i + 1), size);
            uint32_t rank = 0;
            while (position >= census.class_on(rank, label)) position -= census.class_on(rank++, label);
            const auto weight = static_cast<float>(classes * static_cast<double>(census.of_class[label]) / total);
            picks_.push_back({rank, label, position, weight});
            if (size == 1) classes_.erase(classes_.begin() + static_cast<ptrdiff_t>(place));
        }
    }

    std::vector<uint32_t> classes_;
    std::vector<uint64_t> left_;
};

const SamplingPolicy::Register<ClassBalanced> registered("class_balanced");

}  // namespace
}  // namespace replay
