// The buffer: a shard, the draws that are on their way, and what the other ranks have asked for.
//
// A draw is made ("served") on every rank once that rank has the requests of all ranks for it: it computes the picks of
// each requester, copies those that lie in its own shard, and sends them. Until then its shard must not change, so
// `add` waits. In training, where gradients are exchanged in every step, there is nothing left to wait for by then.
//
// Two threads: the caller's, and the buffer's own, which alone sleeps in the transport. The shard belongs to whoever is
// serving while draws are unserved, and to the caller otherwise; all else is guarded by `mutex_`, which is never held
// while a message is sent.
//
// buffer.cpp has what the caller calls, serving.cpp the making of draws, receiving.cpp the thread and what comes in,
// closing.cpp the end, persistence.cpp the files.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "../include/replay.h"
#include "draws.h"
#include "messages.h"
#include "mutex.h"
#include "peers.h"
#include "sampling.h"
#include "shard.h"
#include "snapshot.h"
#include "staging.h"
#include "transport.h"

namespace replay {

struct Options {
    uint64_t capacity, seed;
    uint32_t num_classes, rank, ranks, label_field;
    std::string insertion, sampling;
    PolicyOptions policy_options;  // just those that the two policies declare
    std::vector<FieldInfo> fields;
    double timeout_seconds;
    Token token{};       // of the job
    bool local = false;  // whether all ranks are on this host
};

using MakeTransport =
    std::function<std::unique_ptr<Transport>(uint32_t rank, uint32_t ranks, bool local, Transport::Events)>;

std::unique_ptr<InsertionPolicy> insertion_of(const Options &options);

class Buffer {
  public:
    // `make`: how ranks are joined; called for more than one.
    Buffer(const Options &options, const MakeTransport &make);
    ~Buffer();

    uint32_t ranks() const { return options_.ranks; }
    std::vector<std::byte> address() const;
    void connect(const std::vector<std::vector<std::byte>> &addresses);

    void add(uint64_t n, const void *const *columns);
    void update(uint32_t field, uint64_t n, const uint64_t *ids, const std::byte *rows);
    void request(uint64_t n);
    void receive(rb_records &records);
    void statistics(rb_stats &stats) const;
    Saved copy();
    void check(const std::vector<std::string> &paths) const { read_files(paths); }
    std::vector<uint64_t> load(const std::vector<std::string> &paths);
    void close();

  private:
    using Clock = std::chrono::steady_clock;
    struct Addressed {
        uint32_t rank;
        std::unique_ptr<Message> message;
    };
    using Messages = std::vector<Addressed>;

    // What one rank has to copy for one draw of one requester.
    struct Part {
        uint32_t requester;
        uint64_t sequence;
        bool direct;  // the requester reads the rows itself
        std::vector<uint32_t> rows;
        std::vector<Slot> slots;
    };
    struct Traffic {
        uint64_t sent = 0, received = 0, refused = 0, bytes_sent = 0, bytes_received = 0;
    };

    // ---- what the caller does
    uint64_t rows_for(uint64_t n) const;
    void meet(uint32_t rank, const std::byte *address) EXCLUDES(mutex_);
    size_t address_bytes() const;
    Header header(Kind kind, uint64_t sequence = 0, uint64_t n = 0) const;
    Messages update_messages(uint32_t field, uint64_t n, const uint64_t *ids, const std::byte *rows) REQUIRES(mutex_);
    Messages request_messages(Kind kind, uint64_t n, const std::vector<ClassCount> &counts) REQUIRES(mutex_);
    std::vector<ClassCount> changed_counts() const REQUIRES(mutex_);
    void told(const std::vector<ClassCount> &counts) REQUIRES(mutex_);
    void check_usable() const REQUIRES(mutex_);
    void check_failure() const REQUIRES(mutex_);

    // ---- making draws
    bool can_serve() const REQUIRES(mutex_);
    bool serve(uint64_t most_bytes) EXCLUDES(mutex_);
    std::vector<Part> plan() REQUIRES(mutex_);
    void take_census() REQUIRES(mutex_);
    void expect(const std::vector<Pick> &picks) REQUIRES(mutex_);
    void apply_updates(uint32_t rank, uint64_t through) REQUIRES(mutex_);
    uint64_t carry_out(const std::vector<Part> &parts, const Staging *own) EXCLUDES(mutex_);
    void copy_own(const Part &part, const Staging &staging);
    void send_part(const Part &part) EXCLUDES(mutex_);
    std::unique_ptr<Message> part_message(const Part &part, size_t first, size_t n);

    // ---- the buffer's thread, and what comes in
    void start_thread();
    void stop_thread() EXCLUDES(mutex_);
    void run() EXCLUDES(mutex_);
    void run_alone() EXCLUDES(mutex_);
    void run_with_transport() EXCLUDES(mutex_);
    void on_message(const std::byte *header, size_t header_bytes, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    bool expects(const std::byte *header, size_t header_bytes, size_t bytes) EXCLUDES(mutex_);
    std::optional<Header> open(const std::byte *header, size_t bytes) EXCLUDES(mutex_);
    uint64_t updated_bytes(const Header &header) const;
    Draw &target_of(const Header &header) REQUIRES(mutex_);
    void on_lost(uint32_t rank, const std::string &reason) EXCLUDES(mutex_);
    void take_request(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void take_update(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void take_records(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void store_records(const Header &header, const RecordsBody &records, const Staging &staging);
    void take_failed(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void tell(uint32_t rank, const Header &header) EXCLUDES(mutex_);
    void tell_failure() noexcept EXCLUDES(mutex_);
    void send_all(Messages &&messages) EXCLUDES(mutex_);

    // ---- waiting and failing
    bool quiet() const REQUIRES(mutex_) { return served_ == draws_.requested() && unsent_parts_ == 0; }
    void wait_until_quiet() REQUIRES(mutex_);
    void wait(const std::function<bool()> &ready) REQUIRES(mutex_);
    void help(const std::function<bool()> &ready) EXCLUDES(mutex_);
    void ask_for_life(const std::function<bool(const Peer &)> &done) REQUIRES(mutex_);
    std::string who_is_missing() const REQUIRES(mutex_);
    std::string refused() const REQUIRES(mutex_);
    void lose(uint32_t rank, const std::string &why) REQUIRES(mutex_);
    void fail_with(int status, const std::string &message) REQUIRES(mutex_);
    void fail_with_current_exception() noexcept REQUIRES(mutex_);

    // ---- closing
    void leave() REQUIRES(mutex_);
    void wait_for_others(const std::function<bool(const Peer &)> &condition, const char *what) REQUIRES(mutex_);

    // ---- files
    Saved snapshot() const REQUIRES(mutex_);
    void copy_rows(Saved &saved) const;
    std::vector<Saved> read_files(const std::vector<std::string> &paths) const;
    void load_own(Saved &saved, const std::string &path);
    std::vector<uint64_t> load_others(std::vector<Saved> &all);

    const Options options_;
    uint64_t row_bytes_ = 0;  // of all fields
    Shard shard_;
    std::vector<Stream> streams_;   // of draws, one per rank
    uint64_t capacity_everywhere_;  // of all shards; as it is when the thread starts
    const std::shared_ptr<StagingPool> pool_;
    std::unique_ptr<Transport> transport_;            // none with one rank
    std::vector<std::vector<Memory>> mapped_shards_;  // [ranks][fields], where this rank may read them; else empty.
                                                      // As they are when the thread starts

    mutable Mutex mutex_;
    Condition changed_;
    Condition work_;  // for the thread where there is no transport to sleep in
    bool connected_ GUARDED_BY(mutex_);
    Draws draws_ GUARDED_BY(mutex_);
    Peers peers_ GUARDED_BY(mutex_);
    uint64_t served_ GUARDED_BY(mutex_) = 0;  // draws made, of all ranks
    bool serving_ GUARDED_BY(mutex_) = false;
    uint64_t unsent_parts_ GUARDED_BY(mutex_) = 0;  // messages that still read from the shard
    Census census_ GUARDED_BY(mutex_);              // as of the newest draw made
    std::unique_ptr<SamplingPolicy> sampling_ GUARDED_BY(mutex_);
    // Updates since the last request, for a file; one rank does them at once.
    std::vector<SavedUpdate> unseen_ GUARDED_BY(mutex_);
    std::vector<uint64_t> told_ GUARDED_BY(mutex_);  // [num_classes] counts that the others know of this shard
    int failure_ GUARDED_BY(mutex_) = RB_OK;
    std::string failure_message_ GUARDED_BY(mutex_);
    bool failure_told_ GUARDED_BY(mutex_) = false;  // or nobody needs to hear it
    bool finished_ GUARDED_BY(mutex_) = false, closed_ GUARDED_BY(mutex_) = false, stopping_ GUARDED_BY(mutex_) = false;
    double wait_seconds_ GUARDED_BY(mutex_) = 0;
    Traffic traffic_ GUARDED_BY(mutex_);
    double ended_thread_cpu_ GUARDED_BY(mutex_) = 0;
    uint32_t useless_help_ = 0, help_again_after_ = 0;  // of the caller's thread, see `help`
    std::thread thread_;                                // of the caller's thread
};

}  // namespace replay
