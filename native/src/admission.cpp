#include "admission.h"

#include "error.h"
#include "heap.h"

namespace replay {

Admission::Admission(uint64_t capacity, uint32_t num_classes, Stream stream)
    : capacity_(capacity), stream_(stream), slots_(capacity, num_classes) {
    state_.keys.resize(capacity);
    state_.free.reserve(capacity);
    for (uint64_t slot = capacity; slot-- > 0;) state_.free.push_back(static_cast<Slot>(slot));
}

void Admission::restore(AdmissionState state, Slots slots) {
    state_ = std::move(state);
    slots_ = std::move(slots);
    for (Slot slot : slots_.stored()) adopted(slot);
}

bool Admission::adopt(uint32_t label, uint64_t key, Slot &slot) {
    if (state_.free.empty()) return false;
    slot = take_free();
    ++state_.offered;
    state_.keys[slot] = key;
    slots_.insert(slot, label);
    adopted(slot);
    return true;
}

Slot Admission::take_free() {
    const Slot slot = state_.free.back();
    state_.free.pop_back();
    return slot;
}

namespace {

class Reservoir : public Admission {
  public:
    using Admission::Admission;

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

// With C classes seen, the i-th to appear (from 0) has ceil((capacity - i) / C) slots; this only falls as C grows.
class ClassBalanced : public Admission {
  public:
    ClassBalanced(uint64_t capacity, uint32_t num_classes, Stream stream)
        : Admission(capacity, num_classes, stream), heaps_(num_classes), quotas_(num_classes), seen_(num_classes) {}

    void offer(const int64_t *labels, uint32_t n, std::vector<Placed> &placed) override {
        for (uint32_t row = 0; row < n; ++row) {
            const uint64_t key = random(0);
            ++state_.offered;
            const auto label = static_cast<uint32_t>(labels[row]);
            if (!seen_[label]) make_room_for(label);
            KeyHeap &heap = heaps_[label];
            Slot slot;
            if (heap.size() < quotas_[label]) {
                if (state_.free.empty()) shrink_one();
                slot = take_free();
            } else if (heap.size() > 0 && key > state_.keys[heap.lowest()]) {
                slot = heap.pop(state_.keys);
                slots_.erase(slot);
            } else {
                continue;
            }
            state_.keys[slot] = key;
            heap.push(slot, state_.keys);
            slots_.insert(slot, label);
            placed.push_back({slot, row});
        }
    }

    void restore(AdmissionState state, Slots slots) override {
        for (uint32_t label : state.appearance) seen_[label] = true;
        Admission::restore(std::move(state), std::move(slots));
        set_quotas();
    }

  private:
    void adopted(Slot slot) override {
        const uint32_t label = slots_.label(slot);
        heaps_[label].push(slot, state_.keys);
        if (!seen_[label]) {
            see(label);
            set_quotas();
        }
    }

    void see(uint32_t label) {
        seen_[label] = true;
        state_.appearance.push_back(label);
    }

    // Shrink the other classes to their new quotas, lowest keys first.
    void make_room_for(uint32_t label) {
        see(label);
        set_quotas();
        for (uint32_t other : state_.appearance)
            while (heaps_[other].size() > quotas_[other]) evict_from(other);
    }

    // Records that were adopted may exceed the quotas of their classes; they give way when the place is needed.
    void shrink_one() {
        for (uint32_t other : state_.appearance)
            if (heaps_[other].size() > quotas_[other]) return evict_from(other);
    }

    void evict_from(uint32_t label) {
        const Slot slot = heaps_[label].pop(state_.keys);
        slots_.erase(slot);
        state_.free.push_back(slot);
    }

    void set_quotas() {
        const uint64_t classes = state_.appearance.size();
        for (uint64_t i = 0; i < classes; ++i)
            quotas_[state_.appearance[i]] = capacity_ > i ? (capacity_ - i + classes - 1) / classes : 0;
    }

    std::vector<KeyHeap> heaps_;
    std::vector<uint64_t> quotas_;
    std::vector<bool> seen_;
};

// Bouvier et al. (CCGrid 2024): a fixed share of the slots per class, filled in order; then each record of a batch of b
// replaces a uniformly chosen one of its class with probability candidates / b.
class Candidates : public Admission {
  public:
    Candidates(uint64_t capacity, uint32_t num_classes, uint32_t candidates, Stream stream)
        : Admission(capacity, num_classes, stream), quota_(capacity / num_classes), candidates_(candidates) {
        if (quota_ == 0)
            fail(RB_INVALID,
                 "admission by candidates keeps equally many records of each class: a shard with a capacity of ",
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

std::unique_ptr<Admission> make_admission(int law, uint64_t capacity, uint32_t num_classes, uint32_t candidates,
                                          Stream stream) {
    switch (law) {
        case RB_RESERVOIR: return std::make_unique<Reservoir>(capacity, num_classes, stream);
        case RB_CLASS_BALANCED: return std::make_unique<ClassBalanced>(capacity, num_classes, stream);
        case RB_CANDIDATES: return std::make_unique<Candidates>(capacity, num_classes, candidates, stream);
    }
    fail(RB_INVALID, "no admission law has the number ", law);
}

}  // namespace replay
