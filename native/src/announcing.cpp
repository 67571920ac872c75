// What the ranks tell each other about a draw: what has changed on each since the draw before. A rank announces a draw
// once all have noted the updates that the draw is to see; so where all have announced it, all updates are there.
#include <utility>

#include "buffer.h"
#include "error.h"

namespace replay {

// Of this rank, since it spoke last.
std::optional<Change> Buffer::changed(uint64_t n, bool finished) const {
    Change change{{options_.rank, 1, static_cast<uint32_t>(n), static_cast<uint32_t>(shard_.size()), finished, 0}, {}};
    for (uint32_t label = 0; label < counted_classes_; ++label) {
        const uint64_t count = shard_.count(label);
        if (count != told_counts_[label]) change.counts.push_back({label, static_cast<uint32_t>(count)});
    }
    if (!finished && change.n == told_.n && change.stored == told_.stored && change.counts.empty()) return {};
    return change;
}

void Buffer::told(uint64_t n) noexcept {
    told_.n = static_cast<uint32_t>(n);
    told_.stored = static_cast<uint32_t>(shard_.size());
    for (uint32_t label = 0; label < counted_classes_; ++label) told_counts_[label] = shard_.count(label);
}

void Buffer::hold(std::optional<Change> &&change) {
    held_.push_back({spoken_, std::move(change)});
    ++spoken_;
}

// What was held last is not said after all.
void Buffer::take_back() {
    held_.pop_back();
    --spoken_;
}

// Say what can be said now. Some have heard it and others not, if it fails: that is final.
void Buffer::announce() {
    Messages messages;
    {
        Lock lock(mutex_);
        try {
            while (!held_.empty() && (unnoted_.empty() || unnoted_.begin()->first.first > held_.front().sequence)) {
                Held next = std::move(held_.front());
                held_.pop_front();
                add_letters(messages, dissemination_.announce(next.sequence, std::move(next.change)));
            }
        } catch (...) {
            fail_with_current_exception();
            throw;
        }
    }
    send_all(std::move(messages));
}

void Buffer::add_letters(Messages &messages, Dissemination::Letters &&letters) const {
    for (const Dissemination::Letter &letter : letters) {
        Header head = header(Kind::changes, letter.sequence, letter.round);
        head.field = farewell_ && letter.sequence >= *farewell_;
        messages.push_back({letter.peer, changes_message(head, letter.changes)});
    }
}

void Buffer::take_changes(const Header &header, const std::byte *body, size_t bytes) {
    Messages messages;
    {
        Lock lock(mutex_);
        if (parted_) return;
        // Before its first draw this rank may go on from a file, as the others do already.
        if (draws_.requested() || finished_) check_near(header.source, header.sequence);
        Changes changes = read_changes(header, body, bytes, dissemination_, counted_classes_);
        Dissemination::Letters letters;
        if (header.sequence < served_ ||
            !dissemination_.take(header.sequence, static_cast<uint32_t>(header.n), std::move(changes), letters))
            fail(RB_PEER, "rank ", header.source, " spoke of draw ", header.sequence, " twice");
        // For a rank that has finished nothing changes any more, in draws that others go on to make.
        if (finished_ && !header.field)
            while (spoken_ <= header.sequence) hold({});
        add_letters(messages, std::move(letters));
    }
    send_all(std::move(messages));
    announce();
}

// No rank is further ahead: it receives no draw that this one has not announced.
void Buffer::check_near(uint32_t rank, uint64_t sequence) const {
    if (sequence > spoken_ + RB_MOST_PENDING + 1)
        fail(RB_PEER, "rank ", rank, " spoke of draw ", sequence, ", expected at most ", spoken_ + RB_MOST_PENDING + 1);
}

void Buffer::take_noted(const Header &header) {
    {
        Lock lock(mutex_);
        const auto found = unnoted_.find({header.draw, header.source});
        if (found == unnoted_.end())
            fail(RB_PEER, "rank ", header.source, " noted an update for draw ", header.draw, " that it was not sent");
        if (--found->second == 0) unnoted_.erase(found);
    }
    announce();
}

// What all ranks hold and ask for, as they told it.
void Buffer::take_census(const Changes &changes) {
    const bool ours = served_ < draws_.requested();
    census_.stored.set(options_.rank, shard_.size());
    for (uint32_t label = 0; label < counted_classes_; ++label)
        census_.set_class(options_.rank, label, shard_.count(label));
    sizes_[options_.rank] = ours ? static_cast<uint32_t>(draws_.at(served_).n) : 0;
    for (const Change &change : changes)
        for (uint32_t i = 0; i < change.ranks; ++i) take_change(change.first + i, change);
}

void Buffer::take_change(uint32_t rank, const Change &change) {
    Peer &peer = peers_[rank];
    if (peer.finished && change.n) fail(RB_PEER, "rank ", rank, " asked for draw ", served_, " after it had finished");
    if (change.finished && !peer.finished) {
        peer.finished = true;
        ++finished_ranks_;
    }
    if (rank == options_.rank) return;
    if (change.stored > peer.capacity)
        fail(RB_PEER, "rank ", rank, " stores ", change.stored, " records with a capacity of ", peer.capacity);
    sizes_[rank] = change.n;
    census_.stored.set(rank, change.stored);
    for (const ClassCount &count : change.counts) census_.set_class(rank, count.label, count.count);
    if (counted_classes_ && census_.in_classes[rank] != change.stored)
        fail(RB_PEER, "rank ", rank, " stores ", change.stored, " records, and ", census_.in_classes[rank],
             " in its classes");
}

}  // namespace replay
