// Slots ordered by the keys of their records, the lowest on top.
#pragma once

#include <algorithm>
#include <vector>

#include "slots.h"

namespace replay {

class KeyHeap {
  public:
    size_t size() const { return slots_.size(); }
    Slot lowest() const { return slots_.front(); }

    void push(Slot slot, const std::vector<uint64_t> &keys) {
        slots_.push_back(slot);
        std::push_heap(slots_.begin(), slots_.end(), Above{keys});
    }

    Slot pop(const std::vector<uint64_t> &keys) {
        std::pop_heap(slots_.begin(), slots_.end(), Above{keys});
        const Slot slot = slots_.back();
        slots_.pop_back();
        return slot;
    }

  private:
    // Equal keys are told apart by the slot: the lowest is then the same whatever the order of the calls was.
    struct Above {
        const std::vector<uint64_t> &keys;
        bool operator()(Slot a, Slot b) const { return keys[a] != keys[b] ? keys[a] > keys[b] : a > b; }
    };

    std::vector<Slot> slots_;
};

}  // namespace replay
