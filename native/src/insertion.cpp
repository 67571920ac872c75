#include "insertion.h"

namespace replay {

InsertionPolicy::Policies &InsertionPolicy::registry() {
    static Policies policies("insertion");
    return policies;
}

InsertionPolicy::InsertionPolicy(const InsertionSetting &setting)
    : capacity_(setting.capacity), stream_(setting.stream), slots_(setting.capacity, setting.num_classes) {
    state_.keys.resize(capacity_);
    state_.free.reserve(capacity_);
    for (uint64_t slot = capacity_; slot-- > 0;) state_.free.push_back(static_cast<Slot>(slot));
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

}  // namespace replay
