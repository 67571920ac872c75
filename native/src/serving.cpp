// Making draws: each rank computes the picks of those who draw from its shard, and copies or sends them.
#include <algorithm>
#include <cstring>
#include <utility>

#include "buffer.h"
#include "error.h"

namespace replay {
namespace {

// Parts of at least this size are read by their receiver where they lie, if it can: the answer that it has done so
// costs about as much as carrying this much.
constexpr uint64_t DIRECT_BYTES = 64 << 10;

}  // namespace

bool Buffer::can_serve() const {
    if (serving_ || failure_) return false;
    if (!transport_) return served_ < draws_.requested();
    if (!dissemination_.complete(served_)) return false;
    // What is being sent is read where it is stored: updates wait for that.
    return unsent_parts_ == 0 || !updates_.any(served_);
}

// Make the draws that can be made; the caller's thread leaves those that take long to the other one. Whether there is
// nothing left that could be made. If it throws that is final, but for one rank within `request`: there the draw is
// taken back.
bool Buffer::serve(uint64_t most_bytes) {
    Lock lock(mutex_);
    while (can_serve()) {
        const bool ours = served_ < draws_.requested();
        if (ours && draws_.at(served_).n * row_bytes_ > most_bytes) return false;
        serving_ = true;
        try {
            const std::vector<Part> parts = plan();
            const Staging *staging = ours ? draws_.at(served_).staging.get() : nullptr;
            uint64_t own;
            {
                Unlock unlocked(mutex_);
                own = carry_out(parts, staging);
            }
            if (ours) {
                Draw &draw = draws_.at(served_);
                draw.served = true;
                draw.arrived += own;
                draw.missing[options_.rank] -= static_cast<int64_t>(own);
            }
        } catch (...) {
            // With the mutex still held: the other thread would make the draw again.
            serving_ = false;
            const bool in_request = !transport_ && most_bytes == RB_INLINE_BYTES;
            if (in_request && served_ + 1 == draws_.requested()) pool_->give_back(draws_.take_back());
            else fail_with_current_exception();
            throw;
        }
        ++served_;
        serving_ = false;
        changed_.notify_all();
    }
    return true;
}

// Everything that this rank has to copy for the next draw, for all who asked: first for the rank after it, so that not
// all send to the same one at the same time.
std::vector<Buffer::Part> Buffer::plan() {
    take_census(transport_ ? dissemination_.collect(served_) : Changes());
    apply_updates();
    std::vector<Part> parts;
    for (uint32_t i = 1; i <= options_.ranks; ++i) {
        const uint32_t requester = (options_.rank + i) % options_.ranks;
        auto part = part_of(requester, sizes_[requester]);
        if (part) parts.push_back(std::move(*part));
    }
    return parts;
}

std::optional<Buffer::Part> Buffer::part_of(uint32_t requester, uint64_t n) {
    const bool own = requester == options_.rank;
    const Stream &stream = streams_[requester];
    if (own ? served_ >= draws_.requested() : !sampling_->may_pick(census_, stream, served_, n, options_.rank))
        return {};
    const std::vector<Pick> &picks = sampling_->draw(census_, stream, served_, n);
    picks_ += picks.size();
    if (own) expect(picks);
    Part part{requester, served_, false, {}, {}};
    for (uint32_t row = 0; row < picks.size(); ++row) {
        if (picks[row].rank != options_.rank) continue;
        part.rows.push_back(row);
        part.slots.push_back(shard_.slot_of(picks[row]));
    }
    if (part.rows.empty()) return {};
    part.direct = peers_[requester].reads && part.rows.size() * row_bytes_ >= DIRECT_BYTES;
    return part;
}

void Buffer::expect(const std::vector<Pick> &picks) {
    Draw &own = draws_.at(served_);
    own.expected = picks.size();
    for (const Pick &pick : picks) ++own.missing[pick.rank];
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (own.missing[rank] < 0)
            fail(RB_PEER, "rank ", rank, " sent ", -own.missing[rank], " records too many of draw ", served_);
    for (uint32_t row = 0; row < picks.size(); ++row) own.staging->weights[row] = picks[row].weight;
}

void Buffer::apply_updates() {
    updates_.apply(served_, [this](const Update &update) {
        const std::byte *names = update.names_and_rows.data(), *rows = names + update.n * sizeof(uint64_t);
        const uint64_t row_bytes = options_.fields[update.field].row_bytes;
        for (uint64_t i = 0; i < update.n; ++i) {
            uint64_t id;
            std::memcpy(&id, names + i * sizeof id, sizeof id);
            shard_.update(update.field, id, rows + i * row_bytes);
        }
    });
}

// Others first: they have a way to go. How many records of the own draw came from here.
uint64_t Buffer::carry_out(const std::vector<Part> &parts, const Staging *own) {
    uint64_t copied = 0;
    for (const Part &part : parts)
        if (part.requester != options_.rank) send_part(part);
    for (const Part &part : parts)
        if (part.requester == options_.rank) copy_own(part, *own), copied += part.rows.size();
    return copied;
}

// Nobody else touches these rows, and the draw is received only after it is marked as served.
void Buffer::copy_own(const Part &part, const Staging &staging) {
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t bytes = options_.fields[field].row_bytes;
        std::byte *column = staging.column(field);
        for (size_t i = 0; i < part.rows.size(); ++i)
            std::memcpy(column + part.rows[i] * bytes, shard_.row(field, part.slots[i]), bytes);
    }
    for (size_t i = 0; i < part.rows.size(); ++i) staging.ids[part.rows[i]] = shard_.id(part.slots[i]);
}

void Buffer::send_part(const Part &part) {
    const size_t step = part.direct ? part.rows.size() : records_per_message(row_bytes_);
    for (size_t first = 0; first < part.rows.size(); first += step) {
        const size_t n = std::min(step, part.rows.size() - first);
        auto message = part_message(part, first, n);
        {
            Lock lock(mutex_);
            ++unsent_parts_;
            ++peers_[part.requester].to_be_sent;
            if (part.direct) ++peers_[part.requester].reading;
            ++traffic_.sent;
            traffic_.bytes_sent += sizeof(Header) + message->owned.size() + (part.direct ? 0 : n * row_bytes_);
        }
        transport_->send(part.requester, std::move(message));
    }
}

std::unique_ptr<Message> Buffer::part_message(const Part &part, size_t first, size_t n) {
    std::vector<uint64_t> ids(n);
    for (size_t i = 0; i < n; ++i) ids[i] = shard_.id(part.slots[first + i]);
    const Kind kind = part.direct ? Kind::places : Kind::records;
    auto message = records_message(header(kind, part.sequence, n), part.rows.data() + first, ids.data());
    if (part.direct) return message;
    for (size_t field = 0; field < options_.fields.size(); ++field)
        for (size_t i = 0; i < n; ++i)
            message->body.push_back({shard_.row(field, part.slots[first + i]), options_.fields[field].row_bytes});
    message->sent = [this, to = part.requester] {
        Lock lock(mutex_);
        --peers_[to].to_be_sent;
        if (--unsent_parts_ == 0) changed_.notify_all();
    };
    return message;
}

}  // namespace replay
