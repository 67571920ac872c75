#include "insertion.h"

#include "error.h"
#include "heap.h"

namespace replay {

InsertionPolicy::InsertionPolicy(uint64_t capacity, uint32_t num_classes, Stream stream)
    : capacity_(capacity), stream_(stream), slots_(capacity, num_classes) {
    state_.keys.resize(capacity);
    state_.free.reserve(capacity);
    for (uint64_t slot = capacity; slot-- > 0;) state_.free.push_back(static_cast<Slot>(slot));
}

void InsertionPolicy::restore(InsertionState state, Slots slots) {
    state_ = std::move(state);
    slots_ = std::move(slots);
    for (Slot slot : slots_.stored()) adopted(slot);
}

bool InsertionPolicy::adopt(uint32_t label, uint64_t key, Slot &slot) {
    if (state_.free.empty()) return false;
    slot = take_free();
    ++state_.offered;
    state_.keys[slot] = key;
    slots_.insert(slot, label);
    adopted(slot);
    return true;
}

Slot InsertionPolicy::take_free() {
    const Slot slot = state_.free.back();
    state_.free.pop_back();
    return slot;
}

namespace {

class Reservoir : public InsertionPolicy {
  public:
    using InsertionPolicy::InsertionPolicy;

    void offer(const int64_t *labels, uint32_t n, std::vector<Placed> &placed) override {
        for (uint32_t row = 0; row < n; ++row) {
            const uint64_t key = random(0);
            ++state_.offered;
            const auto label = static_cast<uint32_t>(labels[row]);
            Slot slot;
            if (!state_.free.empty()) {
                slot = take_free();
                slots_.insert(slot, label);
            } else if (key > state_.keys[heap_.lowest()]) {
                slot = heap_.pop(state_.keys);
                slots_.relabel(slot, label);
            } else {
                continue;
            }
            state_.keys[slot] = key;
            heap_.push(slot, state_.keys);
            placed.push_back({slot, row});
        }
    }

  private:
    void adopted(Slot slot) override { heap_.push(slot, state_.keys); }

    KeyHeap heap_;
};

// Every record is stored while there is room; from then on the largest class gives way to smaller ones. So of n_c
// offered records of class c min(n_c, L) are stored, with the level L that fills the capacity. L only falls, and each
// class is a reservoir of its own. Records that were adopted may lie above the level: their class gives way first.
class ClassBalanced : public InsertionPolicy {
  public:
    ClassBalanced(uint64_t capacity, uint32_t num_classes, Stream stream)
        : InsertionPolicy(capacity, num_classes, stream), heaps_(num_classes), seen_(num_classes) {}

    void offer(const int64_t *labels, uint32_t n, std::vector<Placed> &placed) override {
        for (uint32_t row = 0; row < n; ++row) {
            const uint64_t key = random(0);
            ++state_.offered;
            const auto label = static_cast<uint32_t>(labels[row]);
            if (!seen_[label]) see(label);
            KeyHeap &heap = heaps_[label];
            Slot slot;
            if (!state_.free.empty()) {
                slot = take_free();
                stale_ = true;
                slots_.insert(slot, label);
            } else if (largest().size() >= heap.size() + 2) {  // else it grows at the cost of one that is not larger
                slot = largest().pop(state_.keys);
                stale_ = true;
                slots_.relabel(slot, label);
            } else if (heap.size() > 0 && key > state_.keys[heap.lowest()]) {
                slot = heap.pop(state_.keys);
                slots_.relabel(slot, label);
            } else {
                continue;
            }
            state_.keys[slot] = key;
            heap.push(slot, state_.keys);
            placed.push_back({slot, row});
        }
    }

    void restore(InsertionState state, Slots slots) override {
        for (uint32_t label : state.appearance) seen_[label] = true;
        InsertionPolicy::restore(std::move(state), std::move(slots));
    }

  private:
    void adopted(Slot slot) override {
        const uint32_t label = slots_.label(slot);
        heaps_[label].push(slot, state_.keys);
        stale_ = true;
        if (!seen_[label]) see(label);
    }

    void see(uint32_t label) {
        seen_[label] = true;
        state_.appearance.push_back(label);
    }

    // The class that gives way: of several that are the largest, the last to appear.
    KeyHeap &largest() {
        if (stale_) {
            largest_ = state_.appearance.front();
            for (uint32_t label : state_.appearance)
                if (heaps_[label].size() >= heaps_[largest_].size()) largest_ = label;
            stale_ = false;
        }
        return heaps_[largest_];
    }

    std::vector<KeyHeap> heaps_;
    std::vector<bool> seen_;
    uint32_t largest_ = 0;
    bool stale_ = true;  // whether the sizes of the classes have changed
};

// Bouvier et al. (CCGrid 2024): a fixed share of the slots per class, filled in order; then each record of a batch of b
// replaces a uniformly chosen one of its class with probability candidates / b.
class Candidates : public InsertionPolicy {
  public:
    Candidates(uint64_t capacity, uint32_t num_classes, uint32_t candidates, Stream stream)
        : InsertionPolicy(capacity, num_classes, stream), quota_(capacity / num_classes), candidates_(candidates) {
        if (quota_ == 0)
            fail(RB_INVALID,
                 "insertion by candidates keeps equally many records of each class: a shard with a capacity of ",
                 capacity, " is less than one for each of ", num_classes, " classes");
    }

    void offer(const int64_t *labels, uint32_t n, std::vector<Placed> &placed) override {
        for (uint32_t row = 0; row < n; ++row) {
            const uint64_t place = state_.offered++;
            const auto label = static_cast<uint32_t>(labels[row]);
            const std::vector<Slot> &members = slots_.of_class(label);
            Slot slot;
            if (members.size() < quota_) {
                if (state_.free.empty()) shrink_one(place);
                slot = take_free();
                slots_.insert(slot, label);
            } else if (!members.empty() && stream_.below(n, place, 0) < candidates_) {
                slot = members[stream_.below(members.size(), place, 1)];
            } else {
                continue;
            }
            placed.push_back({slot, row});
        }
    }

  private:
    void adopted(Slot) override {}

    // Without free slots some class exceeds its quota, with records that were adopted: one of them gives way.
    void shrink_one(uint64_t place) {
        for (const std::vector<Slot> &members : slots_.members())
            if (members.size() > quota_) {
                const Slot slot = members[stream_.below(members.size(), place, 1)];
                slots_.erase(slot);
                return state_.free.push_back(slot);
            }
    }

    const uint64_t quota_;
    const uint32_t candidates_;
};

}  // namespace

std::unique_ptr<InsertionPolicy> make_insertion(int policy, uint64_t capacity, uint32_t num_classes,
                                                uint32_t candidates, Stream stream) {
    switch (policy) {
        case RB_RESERVOIR: return std::make_unique<Reservoir>(capacity, num_classes, stream);
        case RB_CLASS_BALANCED: return std::make_unique<ClassBalanced>(capacity, num_classes, stream);
        case RB_CANDIDATES: return std::make_unique<Candidates>(capacity, num_classes, candidates, stream);
    }
    fail(RB_INVALID, "no insertion policy has the number ", policy);
}

}  // namespace replay
