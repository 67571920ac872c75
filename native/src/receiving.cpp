// The buffer's own thread, and what other ranks send.
#include <cstring>
#include <ctime>
#include <limits>
#include <utility>

#include "buffer.h"
#include "error.h"

namespace replay {

void Buffer::start_thread() {
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
}

void Buffer::stop_thread() {
    {
        Lock lock(mutex_);
        stopping_ = true;
    }
    if (!thread_.joinable()) return;
    work_.notify_one();
    if (transport_) transport_->wake();
    thread_.join();
}

void Buffer::run() {
    try {
        if (transport_) run_with_transport();
        else run_alone();
    } catch (...) {
        Lock lock(mutex_);
        fail_with_current_exception();
    }
    if (transport_) tell_failure();
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    Lock lock(mutex_);
    ended_thread_cpu_ = static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void Buffer::run_alone() {
    Lock lock(mutex_);
    while (!stopping_) {
        while (!stopping_ && !can_serve()) work_.wait(mutex_);
        Unlock unlocked(mutex_);
        serve(std::numeric_limits<uint64_t>::max());
    }
}

void Buffer::run_with_transport() {
    for (;;) {
        const bool any = transport_->progress();
        serve(std::numeric_limits<uint64_t>::max());
        bool stopping;
        {
            Lock lock(mutex_);
            stopping = stopping_;
            // What was handed to the transport goes out before the thread ends, unless the peers are gone.
            if (stopping && (transport_->unsent() == 0 || !closed_)) return;
        }
        tell_failure();
        if (!any) transport_->wait(stopping ? 10 : -1);
    }
}

void Buffer::on_message(const std::byte *header, size_t header_bytes, const std::byte *body, size_t bytes) {
    const std::optional<Header> opened = open(header, header_bytes);
    if (!opened) return;
    const Header &head = *opened;
    {
        Lock lock(mutex_);
        Peer &peer = peers_[head.source];
        peer.heard = Clock::now();
        peer.asked.reset();
        ++traffic_.received;
        traffic_.bytes_received += header_bytes + bytes;
    }
    switch (head.kind) {
        case Kind::changes: return take_changes(head, body, bytes);
        case Kind::records:
        case Kind::places: return take_records(head, body, bytes);
        case Kind::update: return take_update(head, body, bytes);
        case Kind::noted: return take_noted(head);
        case Kind::taken: return take_taken(head);
        case Kind::failed: return take_failed(head, body, bytes);
        case Kind::ping: return take_ping(head);
        case Kind::pong:
        case Kind::reads: break;
        default: fail(RB_PEER, "rank ", head.source, " sent a message of kind ", static_cast<uint32_t>(head.kind));
    }
    Lock lock(mutex_);
    Peer &peer = peers_[head.source];
    if (head.kind == Kind::reads) {
        peer.reads = true;
    } else {
        peer.answer = {head.sequence, static_cast<uint32_t>(head.n), head.field};
        changed_.notify_all();  // it may have led to others who have to be asked
    }
}

// None for a message of a stranger, who is not answered.
std::optional<Header> Buffer::open(const std::byte *header, size_t bytes) {
    std::optional<Header> head = read_header(header, bytes, options_.token, options_.rank, options_.ranks);
    if (head) return head;
    Lock lock(mutex_);
    ++traffic_.refused;
    return {};
}

// Whether memory may be taken for the body. Throws RB_PEER for a size that cannot be.
bool Buffer::expects(const std::byte *header, size_t header_bytes, size_t bytes) {
    const std::optional<Header> head = open(header, header_bytes);
    if (!head) return false;
    Lock lock(mutex_);
    switch (head->kind) {
        case Kind::changes: check_changes(*head, bytes, dissemination_, counted_classes_); break;
        case Kind::records: check_records(*head, bytes, row_bytes_, rows_for(target_of(*head).n)); break;
        case Kind::places: check_records(*head, bytes, 0, rows_for(target_of(*head).n)); break;
        case Kind::update: check_update(*head, bytes, updated_bytes(*head)); break;
        case Kind::failed: check_failed(*head, bytes); break;
        default: check_empty(*head, bytes);
    }
    return true;
}

// Of a row of the field.
uint64_t Buffer::updated_bytes(const Header &header) const {
    if (header.field >= options_.fields.size() || header.field == options_.label_field)
        fail(RB_PEER, "rank ", header.source, " sent an update of field ", header.field);
    return options_.fields[header.field].row_bytes;
}

void Buffer::take_update(const Header &header, const std::byte *body, size_t bytes) {
    Update update = read_update(header, body, bytes, updated_bytes(header));
    {
        Lock lock(mutex_);
        if (header.draw < served_)
            fail(RB_PEER, "rank ", header.source, " sent an update for draw ", header.draw, ", which is made already");
        updates_.take(header.draw, header.source, header.sequence, std::move(update));
    }
    Header noted = this->header(Kind::noted);
    noted.draw = header.draw;
    tell(header.source, noted);
}

// Checked on delivery: a record can only ever come into the draw that it was picked for.
Draw &Buffer::target_of(const Header &header) {
    if (!draws_.holds(header.sequence))
        fail(RB_PEER, "rank ", header.source, " sent records of draw ", header.sequence, ", expected ", draws_.first(),
             " to ", draws_.requested());
    return draws_.at(header.sequence);
}

void Buffer::take_records(const Header &header, const std::byte *body, size_t bytes) {
    const bool direct = header.kind == Kind::places;
    if (direct && mapped_shards_[header.source].empty())
        fail(RB_PEER, "rank ", header.source, " did not send records of draw ", header.sequence);
    const Staging *staging;
    uint64_t room;
    {
        Lock lock(mutex_);
        const Draw &target = target_of(header);
        if (target.served && target.missing[header.source] < static_cast<int64_t>(header.n))
            fail(RB_PEER, "rank ", header.source, " sent ", header.n, " records of draw ", header.sequence,
                 ", which lacks ", target.missing[header.source]);
        staging = target.staging.get();
        room = rows_for(target.n);
    }
    store_records(header, read_records(header, body, bytes, direct ? 0 : row_bytes_, room), *staging);
    if (direct) tell(header.source, this->header(Kind::taken, header.sequence));
    Lock lock(mutex_);
    Draw &target = target_of(header);  // still there: it lacks these records
    target.arrived += header.n;
    target.missing[header.source] -= static_cast<int64_t>(header.n);
    if (target.complete()) changed_.notify_all();
}

void Buffer::store_records(const Header &header, const RecordsBody &records, const Staging &staging) {
    for (uint64_t i = 0; i < header.n; ++i) {
        uint64_t id;
        std::memcpy(&id, records.names + i * sizeof id, sizeof id);
        if (RecordId::rank(id) != header.source)
            fail(RB_PEER, "rank ", header.source, " sent a record of rank ", RecordId::rank(id));
        staging.ids[records.rows[i]] = id;
    }
    const std::byte *content = records.content;
    const std::vector<Memory> &shard = mapped_shards_[header.source];
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t size = options_.fields[field].row_bytes;
        std::byte *column = staging.column(field);
        if (header.kind == Kind::places) {
            for (uint32_t row : records.rows) {
                const uint64_t place = RecordId::slot(staging.ids[row]) * size;
                if (place + size > shard[field].bytes() - sizeof(SharedToken))
                    fail(RB_PEER, "rank ", header.source, " has no record ", staging.ids[row]);
                std::memcpy(column + row * size, shard[field].data() + place, size);
            }
        } else {
            for (uint64_t i = 0; i < header.n; ++i, content += size)
                std::memcpy(column + records.rows[i] * size, content, size);
        }
    }
}

void Buffer::on_lost(uint32_t rank, const std::string &reason) {
    Lock lock(mutex_);
    lose(rank, "rank " + std::to_string(rank) + " is gone (" + reason + ")");
}

void Buffer::take_taken(const Header &header) {
    Lock lock(mutex_);
    Peer &peer = peers_[header.source];
    if (peer.reading == 0) fail(RB_PEER, "rank ", header.source, " took records that were not offered");
    --peer.reading;
    --peer.to_be_sent;
    if (--unsent_parts_ == 0) changed_.notify_all();
}

// It names who is to blame, in the words of the first to find out, which this rank passes on.
void Buffer::take_failed(const Header &header, const std::byte *body, size_t bytes) {
    const std::string reason = read_failed(header, body, bytes);
    if (header.field >= options_.ranks)
        fail(RB_PEER, "rank ", header.source, " failed, as rank ", header.field, " is to have found");
    Lock lock(mutex_);
    if (!failure_ && !farewell_ && !closed_) {
        failure_reason_ = reason;
        failure_finder_ = header.field;
    }
    lose(header.source, reason + " (rank " + std::to_string(header.field) + " found that, and gave up)");
}

void Buffer::take_ping(const Header &header) {
    Header pong;
    {
        Lock lock(mutex_);
        pong = answer(header.sequence);
    }
    tell(header.source, pong);
}

void Buffer::tell(uint32_t rank, const Header &header) {
    Messages messages;
    messages.push_back({rank, header_message(header)});
    send_all(std::move(messages));
}

// What ended the work of this rank, to its neighbours, who pass it on.
void Buffer::tell_failure() noexcept {
    try {
        Messages messages;
        {
            Lock lock(mutex_);
            if (!failure_ || failure_told_) return;
            failure_told_ = true;
            Header head = header(Kind::failed);
            head.field = failure_finder_;
            const std::string &reason = failure_reason_.empty() ? failure_message_ : failure_reason_;
            for (uint32_t rank : dissemination_.neighbours())
                if (!peers_[rank].lost) messages.push_back({rank, failed_message(head, reason)});
        }
        send_all(std::move(messages));
    } catch (...) {  // they lose this rank all the same
    }
}

// Some have got their message and others not, if one cannot be sent: that is final.
void Buffer::send_all(Messages &&messages) {
    try {
        for (auto &[rank, message] : messages) {
            {
                Lock lock(mutex_);
                ++traffic_.sent;
                traffic_.bytes_sent += sizeof(Header) + message->owned.size();
            }
            transport_->send(rank, std::move(message));
        }
    } catch (...) {
        Lock lock(mutex_);
        fail_with_current_exception();
        throw;
    }
}

}  // namespace replay
