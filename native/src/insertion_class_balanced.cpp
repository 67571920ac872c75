#include "heap.h"
#include "insertion.h"

namespace replay {
namespace {

// Every record is stored while there is room; from then on the largest class gives way to smaller ones. So of n_c
// offered records of class c min(n_c, L) are stored, with the level L that fills the capacity. L only falls, and each
// class is a reservoir of its own. Records that were adopted may lie above the level: their class gives way first.
class ClassBalanced : public InsertionPolicy {
  public:
    explicit ClassBalanced(const InsertionSetting &setting)
        : InsertionPolicy(setting), heaps_(setting.num_classes), seen_(setting.num_classes) {}

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

const InsertionPolicy::Register<ClassBalanced> registered("class_balanced");

}  // namespace
}  // namespace replay
