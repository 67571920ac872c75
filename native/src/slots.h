// Which slots hold a record, as lists without gaps: all of them, and those of each class. Draws pick by position in a
// list, so every operation keeps the order of the lists a function of the calls made before.
#pragma once

#include <cstdint>
#include <vector>

namespace replay {

using Slot = uint32_t;

class Slots {
  public:
    Slots(uint64_t capacity, uint32_t num_classes);

    void insert(Slot slot, uint32_t label);
    void erase(Slot slot);
    // The record in `slot` gives way to one of another class, or of the same.
    void relabel(Slot slot, uint32_t label);

    const std::vector<Slot> &stored() const { return stored_; }
    const std::vector<Slot> &of_class(uint32_t label) const { return members_[label]; }
    uint32_t label(Slot slot) const { return labels_[slot]; }
    uint32_t num_classes() const { return static_cast<uint32_t>(members_.size()); }

    // Take over lists that were saved; `members` [num_classes].
    void restore(std::vector<Slot> stored, std::vector<std::vector<Slot>> members);
    const std::vector<std::vector<Slot>> &members() const { return members_; }

  private:
    void leave_class(Slot slot);

    std::vector<Slot> stored_;
    std::vector<uint32_t> place_;  // of each slot in stored_
    std::vector<std::vector<Slot>> members_;
    std::vector<uint32_t> class_place_;  // of each slot in its class's list
    std::vector<uint32_t> labels_;
};

}  // namespace replay
