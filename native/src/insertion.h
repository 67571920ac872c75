// Insertion policies: which of the offered records stay, and in which slot.
//
// A policy is a class in a file insertion_NAME.cpp that registers itself. Several give every offered record a key and
// keep those with the highest keys; with random keys each set of k among the n offered is equally likely to be the kept
// one, which is reservoir sampling (Vitter 1985).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "philox.h"
#include "policy.h"
#include "slots.h"

namespace replay {

struct Placed {
    Slot slot;
    uint32_t row;  // of the batch
};

// What a policy has to remember, beside the slots, in numbers that a file can hold.
struct InsertionState {
    uint64_t offered = 0;              // records, this counts each of them once
    std::vector<uint64_t> keys;        // per slot, for a policy to use as it likes
    std::vector<Slot> free;            // slots without a record, the next one last
    std::vector<uint32_t> appearance;  // classes in order of appearance, if the policy needs it
};

struct InsertionSetting {
    uint64_t capacity;
    uint32_t num_classes;
    Stream stream;  // `place` names the record: how many were offered before it
    const PolicyOptions &options;
};

class InsertionPolicy {
  public:
    using Policies = Registry<InsertionPolicy, InsertionSetting>;
    static Policies &registry();
    // `options`: names of numbers that it needs, see InsertionSetting.
    template <typename Policy> struct Register {
        explicit Register(const char *name, std::vector<std::string> options = {}) {
            registry().add(name, std::move(options), [](const InsertionSetting &setting) {
                return std::unique_ptr<InsertionPolicy>(std::make_unique<Policy>(setting));
            });
        }
    };

    explicit InsertionPolicy(const InsertionSetting &setting);
    virtual ~InsertionPolicy() = default;

    // Decide on a batch, `labels` [n] in range. Rows go into slots in the order of the result: a slot may come twice,
    // and then the later row stays; it may also have been emptied again, and then what is written there does no harm.
    // Has to count `state_.offered` up by n, and to keep `slots_` and `state_.free` complementary.
    virtual void offer(const int64_t *labels, uint32_t n, std::vector<Placed> &placed) = 0;

    const Slots &slots() const { return slots_; }
    uint64_t offered() const { return state_.offered; }
    const InsertionState &state() const { return state_; }

    // Take over what was saved.
    virtual void restore(InsertionState state, Slots slots);
    // Take in a record that was stored elsewhere, whatever its class has already; false if there is no room.
    bool adopt(uint32_t label, uint64_t key, Slot &slot);

  protected:
    // A record is in `slot` that `offer` did not put there: from a file.
    virtual void adopted(Slot slot) = 0;
    Slot take_free();
    uint64_t random(uint32_t i) const { return stream_.bits(state_.offered, i); }

    const uint64_t capacity_;
    const Stream stream_;
    Slots slots_;
    InsertionState state_;
};

}  // namespace replay
