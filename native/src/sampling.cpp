#include "sampling.h"

#include <algorithm>
#include <numeric>

#include "error.h"

namespace replay {

uint64_t Census::total() const { return std::accumulate(stored.begin(), stored.end(), uint64_t{0}); }

const std::vector<Pick> &Drawer::pick(int policy, const Census &census, const Stream &stream, uint64_t sequence,
                                      uint64_t n) {
    picks_.clear();
    n = std::min(n, census.total());
    shuffle_.begin(n);
    if (policy == RB_UNIFORM) uniform(census, stream, sequence, n);
    else by_class(census, stream, sequence, n);
    return picks_;
}

void Shuffle::begin(uint64_t moves) {
    uint64_t size = 64;
    while (size < 4 * moves) size *= 2;
    if (size > table_.size()) {
        table_.assign(size, {});
        mask_ = size - 1;
        round_ = 0;
    }
    ++round_;
}

Shuffle::Entry &Shuffle::find(uint64_t place) {
    uint64_t at = (place * 0x9E3779B97F4A7C15) >> 20 & mask_;
    while (table_[at].round == round_ && table_[at].place != place) at = (at + 1) & mask_;
    return table_[at];
}

uint64_t Shuffle::take(uint64_t base, uint64_t chosen, uint64_t size) {
    const uint64_t last = base + size - 1;
    const Entry &end = find(last);
    const uint64_t moved = end.round == round_ ? end.content : size - 1;
    Entry &entry = find(base + chosen);
    const uint64_t taken = entry.round == round_ ? entry.content : chosen;
    entry = {base + chosen, moved, round_};
    return taken;
}

// The first n of a shuffle (Fisher and Yates, Durstenfeld's form) of all records of all ranks.
void Drawer::uniform(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) {
    uint64_t size = census.total();
    for (uint32_t i = 0; i < n; ++i, --size) {
        uint64_t position = shuffle_.take(0, stream.below(size, sequence, i), size);
        uint32_t rank = 0;
        while (position >= census.stored[rank]) position -= census.stored[rank++];
        picks_.push_back({rank, ANY_CLASS, position, 1.0f});
    }
}

// Each time a class of those that are not used up, then one of its records that was not taken.
void Drawer::by_class(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) {
    classes_.clear();
    for (uint32_t label = 0; label < census.num_classes; ++label)
        if (census.of_class[label]) classes_.push_back(label);
    left_ = census.of_class;
    const double classes = static_cast<double>(classes_.size()), total = static_cast<double>(census.total());
    for (uint32_t i = 0; i < n; ++i) {
        const uint64_t place = stream.below(classes_.size(), sequence, 2 * i);
        const uint32_t label = classes_[place];
        const uint64_t base = uint64_t{label} << 40, size = left_[label]--;  // lists of classes lie apart
        uint64_t position = shuffle_.take(base, stream.below(size, sequence, 2 * i + 1), size);
        uint32_t rank = 0;
        while (position >= census.class_on(rank, label)) position -= census.class_on(rank++, label);
        const auto weight = static_cast<float>(classes * static_cast<double>(census.of_class[label]) / total);
        picks_.push_back({rank, label, position, weight});
        if (size == 1) classes_.erase(classes_.begin() + static_cast<ptrdiff_t>(place));
    }
}

}  // namespace replay
