#include "heap.h"
#include "insertion.h"

namespace replay {
namespace {

// First in, first out: of n records offered the last `capacity` are stored.
class Fifo : public InsertionPolicy {
  public:
    using InsertionPolicy::InsertionPolicy;

    void offer(const int64_t *labels, uint32_t n, std::vector<Placed> &placed) override {
        for (uint32_t row = 0; row < n; ++row) {
            const uint64_t number = state_.offered++;
            const auto label = static_cast<uint32_t>(labels[row]);
            Slot slot;
            if (!state_.free.empty()) {
                slot = take_free();
                slots_.insert(slot, label);
            } else {
                slot = oldest_.pop(state_.keys);
                slots_.relabel(slot, label);
            }
            state_.keys[slot] = number;
            oldest_.push(slot, state_.keys);
            placed.push_back({slot, row});
        }
    }

  private:
    void adopted(Slot slot) override { oldest_.push(slot, state_.keys); }

    KeyHeap oldest_;
};

const InsertionPolicy::Register<Fifo> registered("fifo");

}  // namespace
}  // namespace replay
