#include "shuffle.h"

namespace replay {

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

}  // namespace replay
