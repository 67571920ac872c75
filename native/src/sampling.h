// Sampling policies over the shards of all ranks. Every rank can compute the picks of every draw, from the numbers of
// records and the stream of the rank that draws; so each knows what it has to send without being asked. A policy
// therefore sees how many records of which class each rank holds, and nothing of their content.
//
// A policy is a class in a file sampling_NAME.cpp that registers itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "philox.h"
#include "policy.h"
#include "shuffle.h"
#include "tally.h"

namespace replay {

// How many records each rank holds, in all and per class.
struct Census {
    // `num_classes`: 0 for a policy that does not look at classes.
    Census(uint32_t ranks, uint32_t num_classes)
        : ranks(ranks), num_classes(num_classes), of_class(num_classes), in_classes(ranks), stored(ranks),
          shares(num_classes, Tally(ranks)) {}

    void set_class(uint32_t rank, uint32_t label, uint64_t count) {
        const uint64_t more = count - shares[label].on(rank);
        of_class[label] += more;
        in_classes[rank] += more;
        shares[label].set(rank, count);
    }
    uint64_t class_on(uint32_t rank, uint32_t label) const { return shares[label].on(rank); }
    uint64_t total() const { return stored.total(); }

    uint32_t ranks, num_classes;
    std::vector<uint64_t> of_class;    // [num_classes], over all ranks; only for a policy that looks at classes
    std::vector<uint64_t> in_classes;  // [ranks], the sum over the classes that were told
    Tally stored;                      // of all classes
    std::vector<Tally> shares;         // [num_classes]
};

constexpr uint32_t ANY_CLASS = UINT32_MAX;

struct Pick {
    uint32_t rank;
    uint32_t label;     // ANY_CLASS: `position` is one among all records of the rank
    uint64_t position;  // in the rank's list of that class
    float weight;       // probability under a uniform draw over that under this policy, for a draw of one
};

struct SamplingSetting {
    const PolicyOptions &options;
};

class SamplingPolicy {
  public:
    using Policies = Registry<SamplingPolicy, SamplingSetting>;
    static Policies &registry();
    // `options`: names of numbers that it needs, see SamplingSetting.
    template <typename Policy> struct Register {
        explicit Register(const char *name, std::vector<std::string> options = {}) {
            registry().add(name, std::move(options), [](const SamplingSetting &setting) {
                return std::unique_ptr<SamplingPolicy>(std::make_unique<Policy>(setting));
            });
        }
    };

    explicit SamplingPolicy(const SamplingSetting &) {}
    virtual ~SamplingPolicy() = default;

    // Whether it looks at the numbers of the classes: only then are they exchanged between ranks.
    virtual bool looks_at_classes() const = 0;
    // min(n, stored everywhere) picks of draw `sequence`, all different; valid until the next call.
    const std::vector<Pick> &draw(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n);
    // False only if that draw has no pick on `rank`. Costs less than the draw.
    bool may_pick(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n, uint32_t rank);

  protected:
    // Push n different picks, n at most `census.total()`; `shuffle_` has room for n calls of `take`.
    virtual void pick(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) = 0;
    // As `may_pick`, of a rank that holds something, and n at most `census.total()`.
    virtual bool may_pick_from(const Census &, const Stream &, uint64_t, uint64_t, uint32_t) { return true; }

    std::vector<Pick> picks_;
    Shuffle shuffle_;
};

}  // namespace replay
