#include "dissemination.h"

#include <algorithm>
#include <utility>

namespace replay {
namespace {

bool follows(const Change &before, const Change &next) {
    return before.counts.empty() && next.counts.empty() && before.first + before.ranks == next.first &&
           before.n == next.n && before.stored == next.stored && before.finished == next.finished;
}

void append(Changes &all, const Changes &more) {
    for (const Change &change : more)
        if (!all.empty() && follows(all.back(), change)) all.back().ranks += change.ranks;
        else all.push_back(change);
}

}  // namespace

Dissemination::Dissemination(uint32_t rank, uint32_t ranks) : rank_(rank), ranks_(ranks) {
    while (uint64_t{1} << rounds_ < ranks) ++rounds_;
}

Dissemination::Gathered &Dissemination::at(uint64_t sequence) {
    Gathered &gathered = draws_[sequence];
    gathered.rounds.resize(rounds_);
    return gathered;
}

Dissemination::Letters Dissemination::announce(uint64_t sequence, std::optional<Change> &&own) {
    Gathered &gathered = at(sequence);
    gathered.announced = true;
    if (own) gathered.own.push_back(std::move(*own));
    Letters letters;
    send(sequence, gathered, letters);
    return letters;
}

bool Dissemination::take(uint64_t sequence, uint32_t round, Changes &&changes, Letters &letters) {
    Gathered &gathered = at(sequence);
    if (gathered.heard >> round & 1) return false;
    gathered.heard |= 1u << round;
    gathered.rounds[round] = std::move(changes);
    send(sequence, gathered, letters);
    return true;
}

Dissemination::Letters Dissemination::give_up(uint64_t sequence) {
    Gathered &gathered = at(sequence);
    gathered.heard = all();
    Letters letters;
    send(sequence, gathered, letters);
    return letters;
}

// Rounds may come before those that they follow.
void Dissemination::send(uint64_t sequence, Gathered &gathered, Letters &letters) const {
    while (gathered.announced && gathered.sent < rounds_) {
        const uint32_t before = (1u << gathered.sent) - 1;
        if ((gathered.heard & before) != before) return;
        letters.push_back({to(gathered.sent), gathered.sent, sequence, joined(gathered, gathered.sent)});
        ++gathered.sent;
    }
}

// What came in a later round is of ranks further back: so this is in order of rank, but for where they begin again.
Changes Dissemination::joined(const Gathered &gathered, uint32_t rounds) {
    Changes all;
    for (uint32_t round = rounds; round-- > 0;) append(all, gathered.rounds[round]);
    append(all, gathered.own);
    return all;
}

bool Dissemination::complete(uint64_t sequence) const { return announced(sequence) && missing(sequence) == 0; }

Changes Dissemination::collect(uint64_t sequence) {
    const auto found = draws_.find(sequence);
    Changes all = joined(found->second, rounds_);
    draws_.erase(found);
    return all;
}

bool Dissemination::may_tell(uint32_t rank, uint32_t round, const ChangeHead &of) const {
    const uint64_t told = std::min<uint64_t>(uint64_t{1} << round, ranks_);
    if (of.first >= ranks_ || of.ranks == 0 || of.ranks > ranks_ - of.first) return false;
    const uint32_t back = after(rank, ranks_ - of.first);  // from the first of them up to the one that tells
    return back < told && of.ranks - 1 <= back;
}

std::vector<uint32_t> Dissemination::neighbours() const {
    std::vector<uint32_t> all;
    for (uint32_t round = 0; round < rounds_; ++round) all.insert(all.end(), {to(round), from(round)});
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
}

bool Dissemination::announced(uint64_t sequence) const {
    const auto found = draws_.find(sequence);
    return found != draws_.end() && found->second.announced;
}

uint32_t Dissemination::missing(uint64_t sequence) const {
    const auto found = draws_.find(sequence);
    return all() & ~(found == draws_.end() ? 0 : found->second.heard);
}

}  // namespace replay
