// Insertion policies: which of the offered records stay, and in which slot.
//
// Reservoir and class-balanced shards give every offered record a random key and keep those with the highest keys: each
// set of k among the n offered is then equally likely to be the kept one, the law of reservoir sampling (Vitter 1985).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "philox.h"
#include "slots.h"

namespace replay {

struct Placed {
    Slot slot;
    uint32_t row;  // of the batch
};

// What a policy has to remember, beside the slots, in numbers that a file can hold.
struct InsertionState {
    uint64_t offered = 0;
    std::vector<uint64_t> keys;        // per slot
    std::vector<Slot> free;            // slots without a record, the next one last
    std::vector<uint32_t> appearance;  // classes in order of appearance
};

class InsertionPolicy {
  public:
    InsertionPolicy(uint64_t capacity, uint32_t num_classes, Stream stream);
    virtual ~InsertionPolicy() = default;

    // Decide on a batch, `labels` [n] in range. Rows go into slots in the order of the result: a slot may come twice,
    // and then the later row stays; it may also have been emptied again, and then what is written there does no harm.
    virtual void offer(const int64_t *labels, uint32_t n, std::vector<Placed> &placed) = 0;

    const Slots &slots() const { return slots_; }
    uint64_t offered() const { return state_.offered; }
    const InsertionState &state() const { return state_; }

    // Take over what was saved.
    virtual void restore(InsertionState state, Slots slots);
    // Take in a record that was stored elsewhere, whatever its class has already; false if there is no room.
    bool adopt(uint32_t label, uint64_t key, Slot &slot);

  protected:
    virtual void adopted(Slot slot) = 0;
    Slot take_free();
    uint64_t random(uint32_t i) const { return stream_.bits(state_.offered, i); }

    const uint64_t capacity_;
    const Stream stream_;
    Slots slots_;
    InsertionState state_;
};

std::unique_ptr<InsertionPolicy> make_insertion(int policy, uint64_t capacity, uint32_t num_classes,
                                                uint32_t candidates, Stream stream);

}  // namespace replay
