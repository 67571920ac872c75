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
        peers_[head.source].heard = Clock::now();
        ++traffic_.received;
        traffic_.bytes_received += header_bytes + bytes;
    }
    switch (head.kind) {
        case Kind::finished:
        case Kind::request: return take_request(head, body, bytes);
        case Kind::records:
        case Kind::places: return take_records(head, body, bytes);
        case Kind::update: return take_update(head, body, bytes);
        case Kind::failed: return take_failed(head, body, bytes);
        case Kind::ping: return tell(head.source, this->header(Kind::pong));
        case Kind::pong: return;
        case Kind::taken:
        case Kind::left: break;
        default: fail(RB_PEER, "rank ", head.source, " sent a message of kind ", static_cast<uint32_t>(head.kind));
    }
    Lock lock(mutex_);
    if (head.kind == Kind::left) {
        peers_[head.source].left = true;
    } else {
        Peer &peer = peers_[head.source];
        if (peer.reading == 0) fail(RB_PEER, "rank ", head.source, " took records that were not offered");
        --peer.reading;
        --unsent_parts_;
    }
    changed_.notify_all();
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
        case Kind::finished:
        case Kind::request: check_request(*head, bytes, options_.num_classes, peers_[head->source].capacity); break;
        case Kind::records: check_records(*head, bytes, row_bytes_, target_of(*head).n); break;
        case Kind::places: check_records(*head, bytes, 0, target_of(*head).n); break;
        case Kind::update: check_update(*head, bytes, updated_bytes(*head)); break;
        case Kind::failed: check_failed(*head, bytes); break;
        default: check_empty(*head, bytes);
    }
    return true;
}

void Buffer::take_request(const Header &header, const std::byte *body, size_t bytes) {
    uint64_t capacity;
    {
        Lock lock(mutex_);
        capacity = peers_[header.source].capacity;
    }
    Request request = read_request(header, body, bytes, options_.num_classes, capacity);
    Lock lock(mutex_);
    if (header.kind == Kind::finished) {
        peers_.take_finished(header.source, header.sequence, std::move(request), served_);
        changed_.notify_all();
        return;
    }
    peers_[header.source].reads = header.reads;
    peers_.take_request(header.source, header.sequence, std::move(request), served_);
}

// Of a row of the field.
uint64_t Buffer::updated_bytes(const Header &header) const {
    if (header.field >= options_.fields.size() || header.field == options_.label_field)
        fail(RB_PEER, "rank ", header.source, " sent an update of field ", header.field);
    return options_.fields[header.field].row_bytes;
}

void Buffer::take_update(const Header &header, const std::byte *body, size_t bytes) {
    Update update = read_update(header, body, bytes, updated_bytes(header));
    Lock lock(mutex_);
    peers_.take_update(header.source, header.sequence, std::move(update));
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
        room = target.n;
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

// It has told the others as well, so this rank need not: the first to find out names who is to blame.
void Buffer::take_failed(const Header &header, const std::byte *body, size_t bytes) {
    const std::string reason = read_failed(header, body, bytes);
    Lock lock(mutex_);
    failure_told_ |= !failure_;
    lose(header.source, reason + " (rank " + std::to_string(header.source) + " found that, and gave up)");
}

void Buffer::tell(uint32_t rank, const Header &header) {
    Messages messages;
    messages.push_back({rank, header_message(header)});
    send_all(std::move(messages));
}

// What ended the work of this rank, to those who will lose it.
void Buffer::tell_failure() noexcept {
    try {
        Messages messages;
        {
            Lock lock(mutex_);
            if (!failure_ || failure_told_) return;
            failure_told_ = true;
            for (uint32_t rank = 0; rank < options_.ranks; ++rank)
                if (rank != options_.rank && !peers_[rank].lost)
                    messages.push_back({rank, failed_message(header(Kind::failed), failure_message_)});
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
