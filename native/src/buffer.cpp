#include "buffer.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <limits>
#include <utility>

#include "error.h"
#include "mapping.h"

namespace replay {

std::unique_ptr<InsertionPolicy> insertion_of(const Options &options) {
    const Stream stream(options.seed, options.rank, Purpose::insertion);
    return InsertionPolicy::registry()
        .find(options.insertion)
        .make({options.capacity, options.num_classes, stream, options.policy_options});
}

Buffer::Buffer(const Options &options, const MakeTransport &make)
    : options_(options), shard_(options.rank, options.capacity, options.fields, options.label_field,
                                insertion_of(options), options.ranks > 1),
      capacity_everywhere_(options.capacity), pool_(std::make_shared<StagingPool>(options.fields)),
      mapped_shards_(options.ranks), connected_(options.ranks == 1), peers_(options.ranks),
      sampling_(SamplingPolicy::registry().find(options.sampling).make({options.policy_options})),
      counted_classes_(sampling_->looks_at_classes() ? options.num_classes : 0),
      dissemination_(options.rank, options.ranks), told_counts_(counted_classes_),
      census_(options.ranks, counted_classes_), sizes_(options.ranks), failure_finder_(options.rank) {
    for (const FieldInfo &field : options.fields) row_bytes_ += field.row_bytes;
    for (uint32_t rank = 0; rank < options.ranks; ++rank) streams_.emplace_back(options.seed, rank, Purpose::draw);
    if (options.ranks > 1)
        transport_ =
            make(options.rank, options.ranks, options.local,
                 {[this](auto... parts) { on_message(parts...); }, [this](auto... parts) { return expects(parts...); },
                  [this](uint32_t rank, const std::string &reason) { on_lost(rank, reason); }});
}

Buffer::~Buffer() {
    stop_thread();
    transport_.reset();  // before what its events and messages refer to
}

// The capacity of the shard, where its columns are to be found, and the transport's address.
std::vector<std::byte> Buffer::address() const {
    if (!transport_) fail(RB_INVALID, "a buffer of one rank has no address");
    std::vector<std::byte> address(sizeof options_.capacity);
    std::memcpy(address.data(), &options_.capacity, sizeof options_.capacity);
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const MappingAddress column = mapping_address(shard_.column(field));
        const auto *bytes = reinterpret_cast<const std::byte *>(&column);
        address.insert(address.end(), bytes, bytes + sizeof column);
    }
    const std::vector<std::byte> &rest = transport_->address();
    address.insert(address.end(), rest.begin(), rest.end());
    return address;
}

// Of what comes before the transport's address.
size_t Buffer::address_bytes() const {
    return sizeof options_.capacity + options_.fields.size() * sizeof(MappingAddress);
}

void Buffer::meet(uint32_t rank, const std::byte *address) {
    uint64_t capacity;
    std::memcpy(&capacity, address, sizeof capacity);
    size_of(capacity, row_bytes_);  // as it has to be, so that the sum over ranks does not wrap around
    if (rank != options_.rank) capacity_everywhere_ += capacity;
    {
        Lock lock(mutex_);
        peers_[rank].capacity = capacity;
        peers_[rank].heard = Clock::now();
    }
    if (rank == options_.rank || !transport_->shares_memory()) return;
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        MappingAddress place;
        std::memcpy(&place, address + sizeof capacity + field * sizeof place, sizeof place);
        Memory column = map_other(place, size_of(capacity, options_.fields[field].row_bytes));
        if (!column.data()) return mapped_shards_[rank].clear();  // then it sends its records
        mapped_shards_[rank].push_back(std::move(column));
    }
}

void Buffer::connect(const std::vector<std::vector<std::byte>> &addresses) {
    if (!transport_) fail(RB_INVALID, "a buffer of one rank has nobody to connect to");
    {
        Lock lock(mutex_);
        if (connected_) fail(RB_INVALID, "the buffer is connected already");
    }
    std::vector<std::vector<std::byte>> rest;
    for (const auto &address : addresses) {
        if (address.size() < address_bytes()) fail(RB_INVALID, "an address is of another version of this library");
        rest.emplace_back(address.begin() + static_cast<ptrdiff_t>(address_bytes()), address.end());
    }
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) meet(rank, addresses[rank].data());
    std::vector<uint32_t> neighbours;
    {
        Lock lock(mutex_);
        neighbours = dissemination_.neighbours();
    }
    transport_->connect(rest, neighbours);
    Messages messages;
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (!mapped_shards_[rank].empty()) messages.push_back({rank, header_message(header(Kind::reads))});
    send_all(std::move(messages));
    {
        Lock lock(mutex_);
        connected_ = true;
    }
    start_thread();
}

void Buffer::add(uint64_t n, const void *const *columns) {
    for (size_t field = 0; n && field < options_.fields.size(); ++field)
        if (!columns[field]) fail(RB_INVALID, "the column of field ", options_.fields[field].name, " is NULL");
    {
        Lock lock(mutex_);
        check_usable();
        wait_until_quiet();
    }
    shard_.add(n, columns);  // the shard is the caller's while nothing is unserved
}

void Buffer::update(uint32_t field, uint64_t n, const uint64_t *ids, const std::byte *rows) {
    if (field >= options_.fields.size()) fail(RB_INVALID, "there is no field ", field);
    if (field == options_.label_field) fail(RB_INVALID, "the label of a record cannot be changed");
    for (uint64_t i = 0; i < n; ++i)
        if (RecordId::rank(ids[i]) >= options_.ranks)
            fail(RB_INVALID, "record ", ids[i], " would be on rank ", RecordId::rank(ids[i]), " of ", options_.ranks);
    Messages messages;
    {
        Lock lock(mutex_);
        check_usable();
        wait_until_quiet();
        if (options_.ranks == 1) {
            const uint64_t row_bytes = options_.fields[field].row_bytes;
            for (uint64_t i = 0; i < n; ++i) shard_.update(field, ids[i], rows + i * row_bytes);
            return;
        }
        messages = update_messages(field, n, ids, rows);
    }
    send_all(std::move(messages));
}

// Registers what is to be changed and makes a message for each of the others; nothing has changed if it throws.
Buffer::Messages Buffer::update_messages(uint32_t field, uint64_t n, const uint64_t *ids, const std::byte *rows) {
    const uint64_t row_bytes = options_.fields[field].row_bytes, draw = draws_.requested();
    std::map<uint32_t, std::vector<uint64_t>> of_rank;
    for (uint64_t i = 0; i < n; ++i) of_rank[RecordId::rank(ids[i])].push_back(i);
    const uint64_t most = records_per_message(sizeof *ids + row_bytes);
    Messages messages;
    std::map<std::pair<uint64_t, uint32_t>, uint64_t> unnoted = unnoted_;
    for (const auto &[rank, chosen] : of_rank) {
        if (rank == options_.rank) continue;
        for (uint64_t first = 0; first < chosen.size(); first += most) {
            const uint64_t count = std::min<uint64_t>(most, chosen.size() - first);
            Header head = header(Kind::update, peers_[rank].updates_sent + 1 + first / most, count);
            head.field = field;
            head.draw = draw;
            auto content = names_and_rows(chosen.data() + first, count, ids, rows, row_bytes);
            messages.push_back({rank, update_message(head, std::move(content))});
            ++unnoted[{draw, rank}];
        }
    }
    unseen_.push_back({field, {ids, ids + n}, {rows, rows + n * row_bytes}});
    const auto mine = of_rank.find(options_.rank);
    if (mine != of_rank.end()) {  // comes after those of lower ranks, which are not here yet
        const std::vector<uint64_t> &chosen = mine->second;
        try {
            updates_.take(draw, options_.rank, peers_[options_.rank].updates_sent + 1,
                          {field, names_and_rows(chosen.data(), chosen.size(), ids, rows, row_bytes), chosen.size()});
        } catch (...) {
            unseen_.pop_back();
            throw;
        }
        ++peers_[options_.rank].updates_sent;
    }
    for (const Addressed &addressed : messages) ++peers_[addressed.rank].updates_sent;
    unnoted_.swap(unnoted);
    return messages;
}

// Not more rows than there can be records.
uint64_t Buffer::rows_for(uint64_t n) const { return std::min(n, capacity_everywhere_); }

void Buffer::request(uint64_t n) {
    if (n > std::numeric_limits<uint32_t>::max()) fail(RB_INVALID, "a draw of ", n, " records is too large");
    {
        Lock lock(mutex_);
        check_usable();
        if (draws_.size() >= RB_MOST_PENDING)
            fail(RB_INVALID, draws_.size(), " draws were requested and not received: receive first");
    }
    Draw draw;
    draw.n = n;
    draw.missing.resize(options_.ranks);
    draw.staging = pool_->take(rows_for(n));
    {
        Lock lock(mutex_);
        try {
            if (transport_) hold(changed(n, false));
            draws_.push(std::move(draw));
        } catch (...) {
            pool_->give_back(std::move(draw.staging));
            if (spoken_ > draws_.requested()) take_back();
            throw;
        }
        told(n);
        unseen_.clear();
    }
    const auto started = Clock::now();
    if (transport_) announce();
    const bool done = serve(RB_INLINE_BYTES);
    const std::chrono::duration<double> took = Clock::now() - started;
    {
        Lock lock(mutex_);
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

Header Buffer::header(Kind kind, uint64_t sequence, uint64_t n) const {
    return {options_.token, kind, options_.rank, sequence, n};
}

void Buffer::receive(rb_records &records) {
    Lock lock(mutex_);
    check_usable();
    if (draws_.empty()) fail(RB_INVALID, "nothing to receive: request a draw first");
    const uint64_t sequence = draws_.first();
    if (!draws_.front().complete()) {
        const auto started = Clock::now();
        wait([&]() REQUIRES(mutex_) { return draws_.front().complete(); }, [=] { return sequence; });
        wait_seconds_ += std::chrono::duration<double>(Clock::now() - started).count();
    }
    const uint64_t count = draws_.front().expected;
    Staging *staging = draws_.pop().release();
    void *lease = staging->lend(pool_);
    records = {sizeof records,         count, sequence, staging->ids, staging->weights, staging->columns.data(), lease,
               staging->memory.bytes()};
}

void Buffer::statistics(rb_stats &stats) const {
    Lock lock(mutex_);
    stats.stored = shard_.size();
    stats.stored_everywhere = options_.ranks == 1 ? shard_.size() : census_.total();
    stats.offered = shard_.insertion().offered();
    stats.shard_bytes = shard_.bytes();
    stats.staging_bytes = pool_->bytes();
    stats.requests = draws_.requested();
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
    stats.messages_sent = traffic_.sent;
    stats.messages_received = traffic_.received;
    stats.messages_refused = traffic_.refused;
    stats.bytes_sent = traffic_.bytes_sent;
    stats.bytes_received = traffic_.bytes_received;
    stats.picks = picks_;
    stats.transport = has_transport;
}

}  // namespace replay
