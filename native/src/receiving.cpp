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
        if (!any) transport_->wait(stopping ? 10 : -1);
    }
}

void Buffer::on_message(const std::byte *header, size_t header_bytes, const std::byte *body, size_t bytes) {
    const Header head = read_header(header, header_bytes, options_.rank, options_.ranks);
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
        case Kind::ping: return tell(head.source, {Kind::pong, options_.rank});
        case Kind::pong: return;
        case Kind::taken:
        case Kind::left: break;
        default: fail(RB_PEER, "rank ", head.source, " sent a message of kind ", static_cast<uint32_t>(head.kind));
    }
    Lock lock(mutex_);
    if (head.kind == Kind::left) {
        peers_[head.source].left = true;
    } else {
        if (unsent_parts_ == 0) fail(RB_PEER, "rank ", head.source, " took records that were not offered");
        --unsent_parts_;
    }
    changed_.notify_all();
}

void Buffer::take_request(const Header &header, const std::byte *body, size_t bytes) {
    Request request = read_request(header, body, bytes, options_.num_classes);
    Lock lock(mutex_);
    if (header.kind == Kind::finished) {
        peers_.take_finished(header.source, header.sequence, std::move(request));
        changed_.notify_all();
        return;
    }
    peers_[header.source].reads = header.reads;
    peers_.take_request(header.source, header.sequence, std::move(request), served_);
}

void Buffer::take_update(const Header &header, const std::byte *body, size_t bytes) {
    if (header.field >= options_.fields.size() || header.field == options_.label_field)
        fail(RB_PEER, "rank ", header.source, " sent an update of field ", header.field);
    Update update = read_update(header, body, bytes, options_.fields[header.field].row_bytes);
    Lock lock(mutex_);
    peers_.take_update(header.source, header.sequence, std::move(update));
}

void Buffer::take_records(const Header &header, const std::byte *body, size_t bytes) {
    const bool direct = header.kind == Kind::places;
    if (direct && mapped_shards_[header.source].empty())
        fail(RB_PEER, "rank ", header.source, " did not send records of draw ", header.sequence);
    const Staging *staging;
    uint64_t room;
    {
        Lock lock(mutex_);
        // Checked on delivery: a record can only ever come into the draw that it was picked for.
        if (!draws_.holds(header.sequence))
            fail(RB_PEER, "rank ", header.source, " sent records of draw ", header.sequence, ", expected ",
                 draws_.first(), " to ", draws_.requested());
        const Draw &target = draws_.at(header.sequence);
        if (target.served && target.missing[header.source] < static_cast<int64_t>(header.n))
            fail(RB_PEER, "rank ", header.source, " sent ", header.n, " records of draw ", header.sequence,
                 ", which lacks ", target.missing[header.source]);
        staging = target.staging.get();
        room = target.n;
    }
    store_records(header, read_records(header, body, bytes, direct ? 0 : row_bytes_, room), *staging);
    if (direct) tell(header.source, {Kind::taken, options_.rank, header.sequence});
    Lock lock(mutex_);
    Draw &target = draws_.at(header.sequence);
    target.arrived += header.n;
    target.missing[header.source] -= static_cast<int64_t>(header.n);
    if (target.complete()) changed_.notify_all();
}

void Buffer::store_records(const Header &header, const RecordsBody &records, const Staging &staging) {
    for (uint64_t i = 0; i < header.n; ++i)
        std::memcpy(&staging.ids[records.rows[i]], records.names + i * sizeof(uint64_t), sizeof(uint64_t));
    const std::byte *content = records.content;
    const std::vector<Memory> &shard = mapped_shards_[header.source];
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t size = options_.fields[field].row_bytes;
        std::byte *column = staging.column(field);
        if (header.kind == Kind::places) {
            for (uint32_t row : records.rows) {
                const uint64_t place = RecordId::slot(staging.ids[row]) * size;
                if (place + size > shard[field].bytes())
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
    peers_[rank].lost = true;
    if (!(peers_[rank].finished_after && finished_) && !closed_)  // in between it has to serve
        fail_with(RB_PEER, "rank " + std::to_string(rank) + " is gone (" + reason + ")");
    changed_.notify_all();
}

void Buffer::tell(uint32_t rank, const Header &header) {
    Messages messages(options_.ranks);
    messages[rank] = header_message(header);
    send_all(std::move(messages));
}

// Some have got their message and others not, if one cannot be sent: that is final.
void Buffer::send_all(Messages &&messages) {
    try {
        for (uint32_t rank = 0; rank < messages.size(); ++rank) {
            if (!messages[rank]) continue;
            {
                Lock lock(mutex_);
                ++traffic_.sent;
                traffic_.bytes_sent += sizeof(Header) + messages[rank]->owned.size();
            }
            transport_->send(rank, std::move(messages[rank]));
        }
    } catch (...) {
        Lock lock(mutex_);
        fail_with_current_exception();
        throw;
    }
}

}  // namespace replay
