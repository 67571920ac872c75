#include <cmath>

#include "sampling.h"

namespace replay {
namespace {

// Each time a class with probability proportional to (its records left) ^ power, then one of them uniformly.
class Tempered : public SamplingPolicy {
  public:
    explicit Tempered(const SamplingSetting &setting) : SamplingPolicy(setting), power_(setting.options.at("power")) {
        if (!(power_ >= 0)) fail(RB_INVALID, "option power must be a number of at least 0, got ", power_);
    }

    bool looks_at_classes() const override { return true; }

  private:
    void pick(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) override {
        left_ = census.of_class;
        const double all = mass_of_all(), total = static_cast<double>(census.total());
        for (uint32_t i = 0; i < n; ++i) {
            const uint32_t label = choose(static_cast<double>(stream.bits(sequence, 2 * i)) * 0x1p-64);
            const uint64_t base = uint64_t{label} << 40, size = left_[label]--;  // lists of classes lie apart
            uint64_t position = shuffle_.take(base, stream.below(size, sequence, 2 * i + 1), size);
            uint32_t rank = 0;
            while (position >= census.class_on(rank, label)) position -= census.class_on(rank++, label);
            const auto count = static_cast<double>(census.of_class[label]);
            picks_.push_back({rank, label, position, static_cast<float>(std::pow(count, 1 - power_) * all / total)});
        }
    }

    double mass(uint32_t label) const {
        return left_[label] ? std::pow(static_cast<double>(left_[label]), power_) : 0.0;
    }

    double mass_of_all() const {
        double all = 0;
        for (uint32_t label = 0; label < left_.size(); ++label) all += mass(label);
        return all;
    }

    // The class in whose part of the line from 0 to 1 the number lies.
    uint32_t choose(double number) const {
        double before = number * mass_of_all();
        uint32_t last = 0;
        for (uint32_t label = 0; label < left_.size(); ++label) {
            if (!left_[label]) continue;
            last = label;
            before -= mass(label);
            if (before < 0) break;
        }
        return last;
    }

    const double power_;
    std::vector<uint64_t> left_;
};

const SamplingPolicy::Register<Tempered> registered("tempered", {"power"});

}  // namespace
}  // namespace replay
