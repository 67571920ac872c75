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
        for (uint32_t i = 0; i < n; ++i, --size) {
            uint64_t position = shuffle_.take(0, stream.below(size, sequence, i), size);
            uint32_t rank = 0;
            while (position >= census.stored[rank]) position -= census.stored[rank++];
            picks_.push_back({rank, ANY_CLASS, position, 1.0f});
        }
    }
};

const SamplingPolicy::Register<Uniform> registered("uniform");

}  // namespace
}  // namespace replay
