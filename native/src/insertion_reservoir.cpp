#include "heap.h"
#include "insertion.h"

namespace replay {
namespace {

// After n offers each record is stored with probability min(1, capacity / n).
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

const InsertionPolicy::Register<Reservoir> registered("reservoir");

}  // namespace
}  // namespace replay
