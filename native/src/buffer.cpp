#include "buffer.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <limits>

#include "error.h"

namespace replay {
namespace {

// Records of one part are sent in messages of about this size: long enough to be carried well, short enough for the
// receiver to copy one while the next is on its way.
constexpr uint64_t MESSAGE_BYTES = 240 << 10;  // with its header below the transport's segments
// Parts of at least this size are read by their receiver where they lie, if it can: the answer that it has done so
// costs about as much as carrying this much.
constexpr uint64_t DIRECT_BYTES = 64 << 10;
constexpr auto HELP_FOR = std::chrono::microseconds(200);
constexpr uint32_t MOST_USELESS_HELP = 127;  // calls

constexpr auto PING_EVERY = std::chrono::milliseconds(500);

std::vector<std::byte> bytes_of(const Header &header) {
    const auto *bytes = reinterpret_cast<const std::byte *>(&header);
    return {bytes, bytes + sizeof header};
}

size_t rows_bytes(uint64_t n) { return (n * sizeof(uint32_t) + 7) / 8 * 8; }

}  // namespace

std::unique_ptr<InsertionPolicy> insertion_of(const Options &options) {
    const Stream stream(options.seed, options.rank, Purpose::insertion);
    return InsertionPolicy::registry()
        .find(options.insertion)
        .make({options.capacity, options.num_classes, stream, options.policy_options});
}

Buffer::Buffer(const Options &options, const MakeTransport &make)
    : options_(options), shard_(options.rank, options.capacity, options.fields, options.label_field,
                                insertion_of(options), options.ranks > 1),
      pool_(std::make_shared<StagingPool>(options.fields)), connected_(options.ranks == 1),
      census_(options.ranks, options.num_classes), told_(options.num_classes),
      sampling_(SamplingPolicy::registry().find(options.sampling).make({options.policy_options})),
      peers_(options.ranks) {
    for (const FieldInfo &field : options.fields) row_bytes_ += field.row_bytes;
    for (uint32_t rank = 0; rank < options.ranks; ++rank) streams_.emplace_back(options.seed, rank, Purpose::draw);
    if (options.ranks > 1)
        transport_ = make(options.rank, options.ranks,
                          {[this](auto... parts) { on_message(parts...); },
                           [this](uint32_t peer, const std::string &reason) { on_lost(peer, reason); }});
}

Buffer::~Buffer() {
    stop_thread();
    transport_.reset();  // before what its events and messages refer to
}

// Where the columns of the shard are to be found, and after it the transport's address.
std::vector<std::byte> Buffer::address() const {
    if (!transport_) fail(RB_INVALID, "a buffer of one rank has no address");
    std::vector<std::byte> address;
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const MappingAddress column = mapping_address(shard_.column(field));
        const auto *bytes = reinterpret_cast<const std::byte *>(&column);
        address.insert(address.end(), bytes, bytes + sizeof column);
    }
    const std::vector<std::byte> &rest = transport_->address();
    address.insert(address.end(), rest.begin(), rest.end());
    return address;
}

void Buffer::map_shard_of(Peer &peer, const std::byte *addresses) {
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        MappingAddress address;
        std::memcpy(&address, addresses + field * sizeof address, sizeof address);
        Memory column = map_other(address);
        if (!column.data()) return peer.columns.clear();  // then it sends its records
        peer.columns.push_back(std::move(column));
    }
}

void Buffer::connect(const std::vector<std::vector<std::byte>> &addresses) {
    if (!transport_) fail(RB_INVALID, "a buffer of one rank has nobody to connect to");
    if (connected_) fail(RB_INVALID, "the buffer is connected already");
    const auto now = Clock::now();
    for (Peer &peer : peers_) peer.heard = now;
    const size_t columns = options_.fields.size() * sizeof(MappingAddress);
    std::vector<std::vector<std::byte>> rest;
    for (const auto &address : addresses) {
        if (address.size() < columns) fail(RB_INVALID, "an address is of another version of this library");
        rest.emplace_back(address.begin() + static_cast<ptrdiff_t>(columns), address.end());
    }
    transport_->connect(rest);
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (rank != options_.rank && transport_->shares_memory()) map_shard_of(peers_[rank], addresses[rank].data());
    connected_ = true;
    start_thread();
}

// ---- what the caller does -------------------------------------------------------------------------------------------

void Buffer::add(uint64_t n, const void *const *columns) {
    for (size_t field = 0; n && field < options_.fields.size(); ++field)
        if (!columns[field]) fail(RB_INVALID, "the column of field ", options_.fields[field].name, " is NULL");
    Lock lock(mutex_);
    check_usable();
    wait_until_quiet(lock);
    lock.unlock();  // the shard is the caller's while nothing is unserved
    shard_.add(n, columns);
}

void Buffer::update(uint32_t field, uint64_t n, const uint64_t *ids, const std::byte *rows) {
    if (field >= options_.fields.size()) fail(RB_INVALID, "there is no field ", field);
    if (field == options_.label_field) fail(RB_INVALID, "the label of a record cannot be changed");
    for (uint64_t i = 0; i < n; ++i)
        if (RecordId::rank(ids[i]) >= options_.ranks)
            fail(RB_INVALID, "record ", ids[i], " would be on rank ", RecordId::rank(ids[i]), " of ", options_.ranks);
    Lock lock(mutex_);
    check_usable();
    wait_until_quiet(lock);
    const uint64_t row_bytes = options_.fields[field].row_bytes;
    std::vector<std::unique_ptr<Message>> messages(options_.ranks);
    std::vector<std::vector<uint64_t>> of_rank(options_.ranks);
    for (uint64_t i = 0; i < n; ++i) of_rank[RecordId::rank(ids[i])].push_back(i);
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
        const std::vector<uint64_t> &mine = of_rank[rank];
        if (mine.empty()) continue;
        if (options_.ranks == 1) {
            for (uint64_t i : mine) shard_.update(field, ids[i], rows + i * row_bytes);
            continue;
        }
        auto message = std::make_unique<Message>();
        message->owned.resize(mine.size() * (sizeof *ids + row_bytes));
        std::byte *names = message->owned.data(), *content = names + mine.size() * sizeof *ids;
        for (size_t i = 0; i < mine.size(); ++i) {
            std::memcpy(names + i * sizeof *ids, &ids[mine[i]], sizeof *ids);
            std::memcpy(content + i * row_bytes, rows + mine[i] * row_bytes, row_bytes);
        }
        if (rank == options_.rank) {  // comes after those of lower ranks, which are not here yet
            peers_[rank].updates.emplace(++peers_[rank].updates_received,
                                         Update{field, std::move(message->owned), mine.size()});
            continue;
        }
        message->body = {{message->owned.data(), message->owned.size()}};
        Header header{Kind::update, options_.rank, ++peers_[rank].updates_sent, mine.size()};
        header.field = field;
        message->header = bytes_of(header);
        ++messages_sent_;
        bytes_sent_ += message->owned.size() + sizeof header;
        messages[rank] = std::move(message);
    }
    if (options_.ranks > 1) unseen_.push_back({field, {ids, ids + n}, {rows, rows + n * row_bytes}});
    lock.unlock();
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (messages[rank]) transport_->send(rank, std::move(messages[rank]));
}

void Buffer::request(uint64_t n) {
    if (n > std::numeric_limits<uint32_t>::max()) fail(RB_INVALID, "a draw of ", n, " records is too large");
    Lock lock(mutex_);
    check_usable();
    lock.unlock();
    // Not more rows than there can be records; with several ranks only an upper bound is known.
    auto staging = pool_->take(options_.ranks == 1 ? std::min(n, shard_.capacity()) : n);
    lock.lock();
    Draw draw;
    draw.n = n;
    draw.staging = std::move(staging);
    draw.missing.resize(options_.ranks);
    draws_.push_back(std::move(draw));
    const uint64_t sequence = requested_++;
    unseen_.clear();
    if (transport_) {
        auto messages = request_messages(Kind::request, sequence, n);
        lock.unlock();
        for (uint32_t rank = 0; rank < options_.ranks; ++rank)
            if (messages[rank]) transport_->send(rank, std::move(messages[rank]));
    } else {
        lock.unlock();
    }
    const auto started = Clock::now();
    const bool done = serve(RB_INLINE_BYTES);
    const std::chrono::duration<double> took = Clock::now() - started;
    {
        Lock again(mutex_);
        wait_seconds_ += took.count();  // a draw made here is waited for as well
    }
    if (done) return;
    if (transport_) {
        transport_->wake();
    } else {
        start_thread();
        work_.notify_one();
    }
}

void Buffer::receive(rb_records &records) {
    Lock lock(mutex_);
    check_usable();
    if (draws_.empty()) fail(RB_INVALID, "nothing to receive: request a draw first");
    Draw &next = draws_.front();
    if (!next.complete()) {
        const auto started = Clock::now();
        wait(lock, [&] { return next.complete(); }, [&] { return silent_ranks(first_draw_); });
        wait_seconds_ += std::chrono::duration<double>(Clock::now() - started).count();
    }
    Staging *staging = next.staging.release();
    void *lease = staging->lend(pool_);
    records = {sizeof records,   next.expected,           first_draw_, staging->ids,
               staging->weights, staging->columns.data(), lease,       staging->memory.bytes()};
    draws_.pop_front();
    ++first_draw_;
}

void Buffer::statistics(rb_stats &stats) const {
    Lock lock(mutex_);
    stats.stored = shard_.size();
    stats.stored_everywhere = options_.ranks == 1 ? shard_.size() : census_.total();
    stats.offered = shard_.insertion().offered();
    stats.shard_bytes = shard_.bytes();
    stats.staging_bytes = pool_->bytes();
    stats.requests = requested_;
    stats.pending = draws_.size();
    stats.wait_seconds = wait_seconds_;
    stats.thread_cpu_seconds = ended_thread_cpu_;
    if (thread_.joinable()) {
        clockid_t clock;
        timespec time;
        // const_cast: native_handle changes nothing, but is not declared so.
        if (pthread_getcpuclockid(const_cast<std::thread &>(thread_).native_handle(), &clock) == 0 &&
            clock_gettime(clock, &time) == 0)
            stats.thread_cpu_seconds += static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    }
    stats.messages_sent = messages_sent_;
    stats.messages_received = messages_received_;
    stats.bytes_sent = bytes_sent_;
    stats.bytes_received = bytes_received_;
    stats.transport = has_transport;
}

void Buffer::close() {
    Lock lock(mutex_);
    if (closed_) return;
    check_failure();
    if (transport_ && connected_) {
        const auto others = [&](auto condition) {
            for (uint32_t rank = 0; rank < options_.ranks; ++rank)
                if (rank != options_.rank && !condition(peers_[rank])) return false;
            return true;
        };
        // Ask everybody who is still expected to say something whether they live, and wait for that.
        const auto timeout = std::chrono::duration<double>(options_.timeout_seconds);
        const auto wait_for = [&](auto condition, const char *what) {
            const auto since = Clock::now();  // nobody was asked for a sign of life before
            while (!others(condition)) {
                check_failure();
                const auto now = Clock::now();
                for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
                    if (rank == options_.rank || condition(peers_[rank])) continue;
                    const std::chrono::duration<double> silent = now - std::max(since, peers_[rank].heard);
                    if (silent > timeout) {
                        fail_with(RB_PEER, "rank " + std::to_string(rank) + " was silent for " +
                                               std::to_string(silent.count()).substr(0, 5) + " s, " + what);
                        check_failure();
                    }
                    lock.unlock();
                    tell(rank, {Kind::ping, options_.rank});
                    lock.lock();
                }
                changed_.wait_for(lock, std::min<std::chrono::duration<double>>(PING_EVERY, timeout / 4),
                                  [&] { return others(condition) || failure_; });
            }
        };
        if (!finished_) {
            wait_until_quiet(lock);
            finished_ = true;
            auto messages = request_messages(Kind::finished, requested_, 0);
            lock.unlock();
            for (uint32_t rank = 0; rank < options_.ranks; ++rank)
                if (messages[rank]) transport_->send(rank, std::move(messages[rank]));
            transport_->wake();  // others may have asked for more already
            lock.lock();
        }
        // Until every rank has finished and nothing that one asked for is left to be made or sent.
        const auto done = [&](const Peer &peer) {
            return peer.finished_after && served_ >= *peer.finished_after && unsent_parts_ == 0;
        };
        wait_for(done, "and has not closed its buffer");
        // Who says `left` needs nobody any more; a rank that is gone by now has heard all it needed as well.
        lock.unlock();
        tell_all({Kind::left, options_.rank});
        lock.lock();
        wait_for([](const Peer &peer) { return peer.left || peer.lost; }, "after it had closed its buffer");
    }
    closed_ = true;
    lock.unlock();
    stop_thread();
    transport_.reset();
    forget_draws();  // records of draws that nobody receives may have come until now
}

// ---- making draws ---------------------------------------------------------------------------------------------------

bool Buffer::peer_has_asked(uint32_t rank, uint64_t sequence) const {
    const Peer &peer = peers_[rank];
    if (peer.finished_after && sequence >= *peer.finished_after) return peer.updates_received >= peer.last.updates;
    const auto found = peer.requests.find(sequence);
    return found != peer.requests.end() && peer.updates_received >= found->second.updates;
}

bool Buffer::can_serve() const {
    if (serving_ || failure_) return false;
    // A rank that has finished goes on serving what the others ask for.
    bool anybody = served_ < requested_;
    if (!anybody && !finished_) return false;
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
        if (rank == options_.rank) continue;
        if (!peer_has_asked(rank, served_)) return false;
        const auto request = peers_[rank].requests.find(served_);
        const bool asks = request != peers_[rank].requests.end();
        anybody |= asks;
        // What is being sent is read where it is stored: updates wait for that.
        const uint64_t updates = asks ? request->second.updates : peers_[rank].last.updates;
        if (unsent_parts_ && peers_[rank].updates_applied < updates) return false;
    }
    return anybody;
}

// Make the draws that can be made; the caller's thread leaves those that take long to the other one. Whether there is
// nothing left that could be made.
bool Buffer::serve(uint64_t most_bytes) {
    Lock lock(mutex_);
    while (can_serve()) {
        const bool ours = served_ < requested_;
        if (ours && draw(served_).n * row_bytes_ > most_bytes) return false;
        serving_ = true;
        std::vector<Part> parts = plan();
        lock.unlock();
        // Others first: they have a way to go.
        uint64_t own = 0;
        for (Part &part : parts)
            if (part.requester != options_.rank) send_part(std::move(part));
        for (const Part &part : parts)
            if (part.requester == options_.rank) copy_own(part), own += part.rows.size();
        lock.lock();
        if (ours) {
            draw(served_).served = true;
            draw(served_).arrived += own;
            draw(served_).missing[options_.rank] -= static_cast<int64_t>(own);
        }
        ++served_;
        serving_ = false;
        changed_.notify_all();
    }
    return true;
}

// Everything that this rank has to copy for the next draw, for all who asked.
std::vector<Buffer::Part> Buffer::plan() {
    std::vector<uint64_t> sizes(options_.ranks);
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
        Peer &peer = peers_[rank];
        if (rank == options_.rank) {
            census_.stored[rank] = shard_.size();
            if (sampling_->looks_at_classes())
                for (uint32_t label = 0; label < options_.num_classes; ++label)
                    census_.set_class(rank, label, shard_.count(label));
            apply_updates(rank, peer.updates_received);
            sizes[rank] = served_ < requested_ ? draw(served_).n : 0;
            continue;
        }
        const auto found = peer.requests.find(served_);
        const Request &request = found == peer.requests.end() ? peer.last : found->second;
        apply_updates(rank, request.updates);
        census_.stored[rank] = request.stored;
        for (const ClassCount &count : request.counts) census_.set_class(rank, count.label, count.count);
        sizes[rank] = request.n;
        if (found != peer.requests.end()) peer.requests.erase(found);
    }
    std::vector<Part> parts;
    for (uint32_t requester = 0; requester < options_.ranks; ++requester) {
        const auto &picks = sampling_->draw(census_, streams_[requester], served_, sizes[requester]);
        Part part{requester, served_, {}, {}};
        for (uint32_t row = 0; row < picks.size(); ++row) {
            if (picks[row].rank != options_.rank) continue;
            part.rows.push_back(row);
            part.slots.push_back(shard_.slot_of(picks[row]));
        }
        if (requester == options_.rank && served_ < requested_) {
            Draw &own = draw(served_);
            own.expected = picks.size();
            for (const Pick &pick : picks) ++own.missing[pick.rank];
            for (uint32_t row = 0; row < picks.size(); ++row) own.staging->weights[row] = picks[row].weight;
        }
        if (!part.rows.empty()) parts.push_back(std::move(part));
    }
    return parts;
}

void Buffer::apply_updates(uint32_t rank, uint64_t through) {
    Peer &peer = peers_[rank];
    while (peer.updates_applied < through) {
        const auto found = peer.updates.find(++peer.updates_applied);
        const Update &update = found->second;
        const std::byte *names = update.names_and_rows.data(), *rows = names + update.n * sizeof(uint64_t);
        const uint64_t row_bytes = options_.fields[update.field].row_bytes;
        for (uint64_t i = 0; i < update.n; ++i) {
            uint64_t id;
            std::memcpy(&id, names + i * sizeof id, sizeof id);
            shard_.update(update.field, id, rows + i * row_bytes);
        }
        peer.updates.erase(found);
    }
}

void Buffer::copy_own(const Part &part) {
    // Nobody else touches these rows, and the draw is received only after it is marked as served.
    Staging *staging;
    {
        Lock lock(mutex_);
        staging = draw(part.sequence).staging.get();
    }
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t bytes = options_.fields[field].row_bytes;
        std::byte *column = staging->column(field);
        for (size_t i = 0; i < part.rows.size(); ++i)
            std::memcpy(column + part.rows[i] * bytes, shard_.row(field, part.slots[i]), bytes);
    }
    for (size_t i = 0; i < part.rows.size(); ++i) staging->ids[part.rows[i]] = shard_.id(part.slots[i]);
}

void Buffer::send_part(Part &&part) {
    bool direct;
    {
        Lock lock(mutex_);
        direct = peers_[part.requester].reads && part.rows.size() * row_bytes_ >= DIRECT_BYTES;
    }
    const size_t step = direct ? part.rows.size() : std::max<uint64_t>(1, MESSAGE_BYTES / row_bytes_);
    for (size_t first = 0; first < part.rows.size(); first += step) {
        const size_t n = std::min(step, part.rows.size() - first);
        auto message = std::make_unique<Message>();
        message->header = bytes_of({direct ? Kind::places : Kind::records, options_.rank, part.sequence, n});
        message->owned.resize(rows_bytes(n) + n * sizeof(uint64_t));
        std::memcpy(message->owned.data(), part.rows.data() + first, n * sizeof(uint32_t));
        for (size_t i = 0; i < n; ++i) {
            const uint64_t id = shard_.id(part.slots[first + i]);
            std::memcpy(message->owned.data() + rows_bytes(n) + i * sizeof id, &id, sizeof id);
        }
        message->body.push_back({message->owned.data(), message->owned.size()});
        if (!direct) {
            for (size_t field = 0; field < options_.fields.size(); ++field)
                for (size_t i = 0; i < n; ++i)
                    message->body.push_back(
                        {shard_.row(field, part.slots[first + i]), options_.fields[field].row_bytes});
            message->sent = [this] {
                Lock lock(mutex_);
                if (--unsent_parts_ == 0) changed_.notify_all();
            };
        }
        {
            Lock lock(mutex_);
            ++unsent_parts_;
            ++messages_sent_;
            bytes_sent_ += sizeof(Header) + message->owned.size() + (direct ? 0 : n * row_bytes_);
        }
        transport_->send(part.requester, std::move(message));
    }
}

std::vector<std::unique_ptr<Message>> Buffer::request_messages(Kind kind, uint64_t sequence, uint64_t n) {
    const std::vector<ClassCount> counts = changed_counts();
    const size_t bytes = counts.size() * sizeof(ClassCount);
    messages_sent_ += options_.ranks - 1;
    bytes_sent_ += (options_.ranks - 1) * (sizeof(Header) + bytes);
    std::vector<std::unique_ptr<Message>> messages(options_.ranks);
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
        if (rank == options_.rank) continue;
        auto message = std::make_unique<Message>();
        Header header{kind, options_.rank, sequence, n, peers_[rank].updates_sent, shard_.size()};
        header.reads = !peers_[rank].columns.empty();
        message->header = bytes_of(header);
        const auto *content = reinterpret_cast<const std::byte *>(counts.data());
        message->owned.assign(content, content + bytes);
        if (bytes) message->body = {{message->owned.data(), bytes}};
        messages[rank] = std::move(message);
    }
    return messages;
}

std::vector<ClassCount> Buffer::changed_counts() {
    std::vector<ClassCount> counts;
    if (!sampling_->looks_at_classes()) return counts;
    for (uint32_t label = 0; label < options_.num_classes; ++label) {
        const uint64_t count = shard_.count(label);
        if (count != told_[label]) counts.push_back({label, static_cast<uint32_t>(count)});
        told_[label] = count;
    }
    return counts;
}

// ---- the buffer's own thread ----------------------------------------------------------------------------------------

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
        if (!transport_) {
            Lock lock(mutex_);
            while (!stopping_) {
                work_.wait(lock, [&] { return stopping_ || can_serve(); });
                lock.unlock();
                serve(std::numeric_limits<uint64_t>::max());
                lock.lock();
            }
        } else {
            for (;;) {
                const bool any = transport_->progress();
                serve(std::numeric_limits<uint64_t>::max());
                bool stopping;
                {
                    Lock lock(mutex_);
                    stopping = stopping_;
                    // What was handed to the transport goes out before the thread ends, unless the peers are gone.
                    if (stopping && (transport_->unsent() == 0 || !closed_)) break;
                }
                if (!any) transport_->wait(stopping ? 10 : -1);
            }
        }
    } catch (const Error &error) {
        Lock lock(mutex_);
        fail_with(error.status, error.what());
    } catch (const std::exception &error) {
        Lock lock(mutex_);
        fail_with(RB_INTERNAL, error.what());
    }
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    Lock lock(mutex_);
    ended_thread_cpu_ = static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void Buffer::on_message(const std::byte *header, size_t header_bytes, const std::byte *body, size_t body_bytes) {
    Header head;
    if (header_bytes != sizeof head) fail(RB_PEER, "a message of another version of this library arrived");
    std::memcpy(&head, header, sizeof head);
    if (head.source >= options_.ranks || head.source == options_.rank)
        fail(RB_PEER, "a message came from rank ", head.source, " of ", options_.ranks);
    {
        Lock lock(mutex_);
        peers_[head.source].heard = Clock::now();
        ++messages_received_;
        bytes_received_ += header_bytes + body_bytes;
    }
    switch (head.kind) {
        case Kind::finished:
        case Kind::request: return take_request(head, body, body_bytes);
        case Kind::records:
        case Kind::places: return take_records(head, body, body_bytes);
        case Kind::update: return take_update(head, body, body_bytes);
        case Kind::ping: return tell(head.source, {Kind::pong, options_.rank});
        case Kind::pong: return;
        case Kind::taken:
        case Kind::left: break;
        default: fail(RB_PEER, "rank ", head.source, " sent a message of kind ", static_cast<uint32_t>(head.kind));
    }
    Lock lock(mutex_);
    if (head.kind == Kind::taken) --unsent_parts_;
    else peers_[head.source].left = true;
    changed_.notify_all();
}

void Buffer::take_request(const Header &header, const std::byte *body, size_t bytes) {
    Request request{header.n, header.updates, header.stored, std::vector<ClassCount>(bytes / sizeof(ClassCount))};
    if (bytes) std::memcpy(request.counts.data(), body, bytes);
    for (const ClassCount &count : request.counts)
        if (count.label >= options_.num_classes) fail(RB_PEER, "rank ", header.source, " counts class ", count.label);
    Lock lock(mutex_);
    if (header.kind == Kind::finished) {
        peers_[header.source].last = std::move(request);
        peers_[header.source].finished_after = header.sequence;
        changed_.notify_all();
        return;
    }
    peers_[header.source].reads = header.reads;
    if (header.sequence < served_ ||
        !peers_[header.source].requests.emplace(header.sequence, std::move(request)).second)
        fail(RB_PEER, "rank ", header.source, " asked for draw ", header.sequence, " twice");
}

void Buffer::take_records(const Header &header, const std::byte *body, size_t bytes) {
    const bool direct = header.kind == Kind::places;
    const std::vector<Memory> &columns = peers_[header.source].columns;
    if (direct && columns.empty())
        fail(RB_PEER, "rank ", header.source, " did not send records of draw ", header.sequence);
    if (bytes != rows_bytes(header.n) + header.n * (sizeof(uint64_t) + (direct ? 0 : row_bytes_)))
        fail(RB_PEER, "rank ", header.source, " sent ", bytes, " bytes for ", header.n, " records of draw ",
             header.sequence);
    Staging *staging;
    uint64_t room;
    {
        Lock lock(mutex_);
        // Checked on delivery: a record can only ever come into the draw that it was picked for.
        if (header.sequence < first_draw_ || header.sequence >= requested_)
            fail(RB_PEER, "rank ", header.source, " sent records of draw ", header.sequence, ", expected ", first_draw_,
                 " to ", requested_);
        staging = draw(header.sequence).staging.get();
        room = draw(header.sequence).n;
    }
    std::vector<uint32_t> rows(header.n);
    std::memcpy(rows.data(), body, header.n * sizeof(uint32_t));
    const std::byte *names = body + rows_bytes(header.n), *content = names + header.n * sizeof(uint64_t);
    for (uint64_t i = 0; i < header.n; ++i) {
        if (rows[i] >= room) fail(RB_PEER, "rank ", header.source, " sent row ", rows[i], " of a draw of ", room);
        std::memcpy(&staging->ids[rows[i]], names + i * sizeof(uint64_t), sizeof(uint64_t));
    }
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t size = options_.fields[field].row_bytes;
        std::byte *column = staging->column(field);
        if (direct) {
            for (uint64_t i = 0; i < header.n; ++i) {
                const uint64_t place = RecordId::slot(staging->ids[rows[i]]) * size;
                if (place + size > columns[field].bytes())
                    fail(RB_PEER, "rank ", header.source, " has no record ", staging->ids[rows[i]]);
                std::memcpy(column + rows[i] * size, columns[field].data() + place, size);
            }
        } else {
            for (uint64_t i = 0; i < header.n; ++i, content += size)
                std::memcpy(column + rows[i] * size, content, size);
        }
    }
    if (direct) tell(header.source, {Kind::taken, options_.rank, header.sequence});
    Lock lock(mutex_);
    Draw &target = draw(header.sequence);
    target.arrived += header.n;
    target.missing[header.source] -= static_cast<int64_t>(header.n);
    if (target.complete()) changed_.notify_all();
}

void Buffer::take_update(const Header &header, const std::byte *body, size_t bytes) {
    if (header.field >= options_.fields.size() ||
        bytes != header.n * (sizeof(uint64_t) + options_.fields[header.field].row_bytes))
        fail(RB_PEER, "rank ", header.source, " sent an update that does not fit field ", header.field);
    Lock lock(mutex_);
    Peer &peer = peers_[header.source];
    peer.updates.emplace(header.sequence, Update{header.field, {body, body + bytes}, header.n});
    while (peer.updates.count(peer.updates_received + 1)) ++peer.updates_received;  // they may overtake each other
}

void Buffer::on_lost(uint32_t rank, const std::string &reason) {
    Lock lock(mutex_);
    peers_[rank].lost = true;
    if (!(peers_[rank].finished_after && finished_) && !closed_)  // in between it has to serve
        fail_with(RB_PEER, "rank " + std::to_string(rank) + " is gone (" + reason + ")");
    changed_.notify_all();
}

void Buffer::tell(uint32_t peer, const Header &header) {
    auto message = std::make_unique<Message>();
    message->header = bytes_of(header);
    {
        Lock lock(mutex_);
        ++messages_sent_;
        bytes_sent_ += sizeof header;
    }
    transport_->send(peer, std::move(message));
}

void Buffer::tell_all(const Header &header) {
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (rank != options_.rank) tell(rank, header);
}

// ---- waiting and failing --------------------------------------------------------------------------------------------

void Buffer::forget_draws() {
    for (Draw &draw : draws_) pool_->give_back(std::move(draw.staging));
    draws_.clear();
}

Buffer::Draw &Buffer::draw(uint64_t sequence) { return draws_[sequence - first_draw_]; }

void Buffer::check_usable() const {
    check_failure();
    if (closed_ || finished_) fail(RB_INVALID, "the buffer is closed");
    if (!connected_) fail(RB_INVALID, "the buffer is not connected to the other ranks");
}

void Buffer::check_failure() const {
    if (failure_) throw Error(failure_, failure_message_);
}

void Buffer::fail_with(int status, const std::string &message) {
    if (!failure_) failure_message_ = message;
    if (!failure_) failure_ = status;
    changed_.notify_all();
}

// Do the work of the buffer's thread while waiting, for a moment: what is on its way is often here before that thread
// would be awake and has woken this one. Where that did not help, because the others are late or the cores are busy, it
// is left for a while.
void Buffer::help(const std::function<bool()> &ready) {
    const auto until = Clock::now() + HELP_FOR;
    const bool stay = transport_ && help_again_after_ == 0;  // without others there is nothing to come
    if (help_again_after_) --help_again_after_;
    try {
        bool over = false, in_time = true;
        while (!over && in_time) {
            if (transport_) transport_->progress();
            serve(std::numeric_limits<uint64_t>::max());
            in_time = stay && Clock::now() < until;
            Lock lock(mutex_);
            over = failure_ || ready();
        }
        if (transport_) transport_->settle();
        if (!stay) return;
        useless_help_ = over && in_time ? 0 : std::min(2 * useless_help_ + 1, MOST_USELESS_HELP);
        help_again_after_ = useless_help_;
    } catch (const Error &error) {
        Lock lock(mutex_);
        fail_with(error.status, error.what());
    }
}

void Buffer::wait(Lock &lock, const std::function<bool()> &ready, const std::function<std::string()> &missing) {
    lock.unlock();
    help(ready);
    lock.lock();
    const auto limit = std::chrono::duration<double>(options_.timeout_seconds);
    if (!changed_.wait_for(lock, limit, [&] { return failure_ || ready(); }))
        fail_with(RB_PEER, missing() + " for " + std::to_string(options_.timeout_seconds).substr(0, 5) + " s");
    if (!ready()) check_failure();
}

void Buffer::wait_until_quiet(Lock &lock) {
    if (quiet()) return;
    const auto started = Clock::now();
    wait(lock, [&] { return quiet(); }, [&] { return silent_ranks(served_); });
    wait_seconds_ += std::chrono::duration<double>(Clock::now() - started).count();
}

std::string Buffer::silent_ranks(uint64_t sequence) const {
    std::string silent;
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (rank != options_.rank && sequence >= served_ && sequence < requested_ && !peer_has_asked(rank, sequence))
            silent += (silent.empty() ? "" : ", ") + std::to_string(rank);
    if (!silent.empty()) return "draw " + std::to_string(sequence) + " was not requested by rank " + silent;
    const std::string number = std::to_string(sequence);
    if (sequence - first_draw_ >= draws_.size()) return "messages to other ranks were not sent";
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (rank != options_.rank && draws_[sequence - first_draw_].missing[rank] > 0)
            silent += (silent.empty() ? "" : ", ") + std::to_string(rank);
    return "records of draw " + number + " did not come from rank " + silent;
}

}  // namespace replay
