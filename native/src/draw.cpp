#include "draw.h"

#include <algorithm>
#include <numeric>

#include "error.h"

namespace replay {

uint64_t Census::total() const { return std::accumulate(stored.begin(), stored.end(), uint64_t{0}); }

const std::vector<Pick> &Drawer::pick(int law, const Census &census, const Stream &stream, uint64_t sequence,
                                      uint64_t n) {
    picks_.clear();
    moved_.clear();
    n = std::min(n, census.total());
    if (law == RB_UNIFORM)
        uniform(census, stream, sequence, n);
    else
        by_class(census, stream, sequence, n);
    return picks_;
}

namespace {

// Position `chosen` of a list of `size` that is being shuffled from its end; what lay last takes its place.
uint64_t take(std::unordered_map<uint64_t, uint64_t> &moved, uint64_t base, uint64_t chosen, uint64_t size) {
    const auto at = [&](uint64_t place) {
        const auto found = moved.find(base + place);
        return found == moved.end() ? place : found->second;
    };
    const uint64_t taken = at(chosen);
    moved[base + chosen] = at(size - 1);
    return taken;
}

}  // namespace

// The first n of a shuffle (Fisher and Yates, Durstenfeld's form) of all records of all ranks.
void Drawer::uniform(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) {
    uint64_t size = census.total();
    for (uint32_t i = 0; i < n; ++i, --size) {
        uint64_t position = take(moved_, 0, stream.below(size, sequence, i), size);
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
        uint64_t position = take(moved_, base, stream.below(size, sequence, 2 * i + 1), size);
        uint32_t rank = 0;
        while (position >= census.class_on(rank, label)) position -= census.class_on(rank++, label);
        const auto weight = static_cast<float>(classes * static_cast<double>(census.of_class[label]) / total);
        picks_.push_back({rank, label, position, weight});
        if (size == 1) classes_.erase(classes_.begin() + static_cast<ptrdiff_t>(place));
    }
}

}  // namespace replay
