#include "slots.h"

namespace replay {
namespace {

// Fill the gap at `place` with the last entry.
void close_gap(std::vector<Slot> &list, std::vector<uint32_t> &places, uint32_t place) {
    list[place] = list.back();
    places[list[place]] = place;
    list.pop_back();
}

}  // namespace

Slots::Slots(uint64_t capacity, uint32_t num_classes)
    : place_(capacity), members_(num_classes), class_place_(capacity), labels_(capacity) {
    stored_.reserve(capacity);
}

void Slots::insert(Slot slot, uint32_t label) {
    place_[slot] = static_cast<uint32_t>(stored_.size());
    stored_.push_back(slot);
    class_place_[slot] = static_cast<uint32_t>(members_[label].size());
    members_[label].push_back(slot);
    labels_[slot] = label;
}

void Slots::erase(Slot slot) {
    close_gap(stored_, place_, place_[slot]);
    leave_class(slot);
}

void Slots::relabel(Slot slot, uint32_t label) {
    if (labels_[slot] == label) return;
    leave_class(slot);
    class_place_[slot] = static_cast<uint32_t>(members_[label].size());
    members_[label].push_back(slot);
    labels_[slot] = label;
}

void Slots::leave_class(Slot slot) { close_gap(members_[labels_[slot]], class_place_, class_place_[slot]); }

void Slots::restore(std::vector<Slot> stored, std::vector<std::vector<Slot>> members) {
    stored_ = std::move(stored);
    members_ = std::move(members);
    for (uint32_t i = 0; i < stored_.size(); ++i) place_[stored_[i]] = i;
    for (uint32_t label = 0; label < members_.size(); ++label)
        for (uint32_t i = 0; i < members_[label].size(); ++i) {
            class_place_[members_[label][i]] = i;
            labels_[members_[label][i]] = label;
        }
}

}  // namespace replay
