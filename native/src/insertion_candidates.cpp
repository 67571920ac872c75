#include "insertion.h"

namespace replay {
namespace {

// Bouvier et al. (CCGrid 2024): a fixed share of the slots per class, filled in order; then each record of a batch of b
// replaces a uniformly chosen one of its class with probability candidates / b.
class Candidates : public InsertionPolicy {
  public:
    explicit Candidates(const InsertionSetting &setting)
        : InsertionPolicy(setting), quota_(setting.capacity / setting.num_classes),
          candidates_(whole_option(setting.options, "candidates", 1)) {
        if (quota_ == 0)
            fail(RB_INVALID,
                 "insertion policy candidates keeps equally many records of each class: a shard with a capacity of ",
                 setting.capacity, " is less than one for each of ", setting.num_classes, " classes");
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
    const uint64_t candidates_;
};

const InsertionPolicy::Register<Candidates> registered("candidates", {"candidates"});

}  // namespace
}  // namespace replay
