// The buffer: a shard, the draws that are on their way, and what the other ranks have asked for.
//
// A draw is made ("served") on every rank once that rank knows that all have requested it, see dissemination.h: it
// computes the picks of those who draw from its shard, copies these records, and sends them. Until then its shard must
// not change, so `add` waits. In training, where gradients are exchanged in every step, there is nothing left to wait
// for by then.
//
// Two threads: the caller's, and the buffer's own, which alone sleeps in the transport. The shard belongs to whoever is
// serving while draws are unserved, and to the caller otherwise; all else is guarded by `mutex_`, which is never held
// while a message is sent.
//
// buffer.cpp has what the caller calls, announcing.cpp what the ranks tell each other about a draw, serving.cpp the
// making of draws, receiving.cpp the thread and what comes in, waiting.cpp what a call waits for, closing.cpp the end,
// persistence.cpp the files.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../include/replay.h"
#include "dissemination.h"
#include "draws.h"
#include "messages.h"
#include "mutex.h"
#include "peers.h"
#include "sampling.h"
#include "shard.h"
#include "snapshot.h"
#include "staging.h"
#include "transport.h"
#include "updates.h"

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
    void check_usable() const REQUIRES(mutex_);
    void check_failure() const REQUIRES(mutex_);

    // ---- what the ranks tell each other about a draw
    std::optional<Change> changed(uint64_t n, bool finished) const REQUIRES(mutex_);
    void told(uint64_t n) noexcept REQUIRES(mutex_);
    void hold(std::optional<Change> &&change) REQUIRES(mutex_);
    void take_back() REQUIRES(mutex_);
    void announce() EXCLUDES(mutex_);
    void add_letters(Messages &messages, Dissemination::Letters &&letters) const REQUIRES(mutex_);
    void take_changes(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void check_near(uint32_t rank, uint64_t sequence) const REQUIRES(mutex_);
    void take_noted(const Header &header) EXCLUDES(mutex_);
    void take_census(const Changes &changes) REQUIRES(mutex_);
    void take_change(uint32_t rank, const Change &change) REQUIRES(mutex_);
    bool all_finished() const REQUIRES(mutex_) { return finished_ranks_ == options_.ranks; }

    // ---- making draws
    bool can_serve() const REQUIRES(mutex_);
    bool serve(uint64_t most_bytes) EXCLUDES(mutex_);
    std::vector<Part> plan() REQUIRES(mutex_);
    std::optional<Part> part_of(uint32_t requester, uint64_t n) REQUIRES(mutex_);
    void expect(const std::vector<Pick> &picks) REQUIRES(mutex_);
    void apply_updates() REQUIRES(mutex_);
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
    void take_update(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void take_records(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void store_records(const Header &header, const RecordsBody &records, const Staging &staging);
    void take_taken(const Header &header) EXCLUDES(mutex_);
    void take_ping(const Header &header) EXCLUDES(mutex_);
    void take_failed(const Header &header, const std::byte *body, size_t bytes) EXCLUDES(mutex_);
    void tell(uint32_t rank, const Header &header) EXCLUDES(mutex_);
    void tell_failure() noexcept EXCLUDES(mutex_);
    void send_all(Messages &&messages) EXCLUDES(mutex_);

    // ---- waiting and failing
    bool quiet() const REQUIRES(mutex_) { return served_ == draws_.requested() && unsent_parts_ == 0; }
    void wait_until_quiet() REQUIRES(mutex_);
    void wait(const std::function<bool()> &ready, const std::function<uint64_t()> &awaited) REQUIRES(mutex_);
    void wait_patiently(const std::function<bool()> &ready, const std::function<uint64_t()> &awaited) REQUIRES(mutex_);
    void help(const std::function<bool()> &ready) EXCLUDES(mutex_);
    uint32_t state_of(uint64_t sequence) const REQUIRES(mutex_);
    Header answer(uint64_t sequence) const REQUIRES(mutex_);
    std::vector<uint32_t> waited_for(uint64_t sequence) const REQUIRES(mutex_);
    void ask_for_life(uint64_t sequence, std::vector<bool> &asked) REQUIRES(mutex_);
    uint64_t first_incomplete() const REQUIRES(mutex_);
    std::string who_is_missing(uint64_t sequence) const REQUIRES(mutex_);
    std::string refused() const REQUIRES(mutex_);
    void lose(uint32_t rank, const std::string &why) REQUIRES(mutex_);
    void fail_with(int status, const std::string &message) REQUIRES(mutex_);
    void fail_with_current_exception() noexcept REQUIRES(mutex_);

    // ---- closing
    void leave() REQUIRES(mutex_);
    void wait_for_others(const std::function<bool()> &over, const char *what) REQUIRES(mutex_);

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
    std::vector<Peer> peers_ GUARDED_BY(mutex_);  // [ranks]
    std::unique_ptr<SamplingPolicy> sampling_ GUARDED_BY(mutex_);
    const uint32_t counted_classes_;  // 0 where the policy does not look at them

    Dissemination dissemination_ GUARDED_BY(mutex_);
    // What this rank has to say about each draw, and cannot yet: others have to note its updates first.
    struct Held {
        uint64_t sequence;
        std::optional<Change> change;
    };
    std::deque<Held> held_ GUARDED_BY(mutex_);
    uint64_t spoken_ GUARDED_BY(mutex_) = 0;                // draws about which it has said, or holds, something
    Change told_ GUARDED_BY(mutex_);                        // what the others know of this rank,
    std::vector<uint64_t> told_counts_ GUARDED_BY(mutex_);  // [counted_classes_] and of its classes
    // Updates that were sent and not noted, by the first draw that sees them and the rank.
    std::map<std::pair<uint64_t, uint32_t>, uint64_t> unnoted_ GUARDED_BY(mutex_);
    Updates updates_ GUARDED_BY(mutex_);

    uint64_t served_ GUARDED_BY(mutex_) = 0;  // draws made, of all ranks
    bool serving_ GUARDED_BY(mutex_) = false;
    uint64_t unsent_parts_ GUARDED_BY(mutex_) = 0;    // messages that still read from the shard
    Census census_ GUARDED_BY(mutex_);                // as of the newest draw made,
    std::vector<uint32_t> sizes_ GUARDED_BY(mutex_);  // [ranks] and what each asked for
    uint32_t finished_ranks_ GUARDED_BY(mutex_) = 0;
    uint64_t picks_ GUARDED_BY(mutex_) = 0;  // computed
    // Updates since the last request, for a file; one rank does them at once.
    std::vector<SavedUpdate> unseen_ GUARDED_BY(mutex_);
    int failure_ GUARDED_BY(mutex_) = RB_OK;
    std::string failure_message_ GUARDED_BY(mutex_);
    // What the others are told: the same, in the words of the rank that found it.
    std::string failure_reason_ GUARDED_BY(mutex_);
    uint32_t failure_finder_ GUARDED_BY(mutex_);
    bool failure_told_ GUARDED_BY(mutex_) = false;         // or nobody needs to hear it
    std::optional<uint64_t> farewell_ GUARDED_BY(mutex_);  // number of the draw in whose place the ranks part
    bool parted_ GUARDED_BY(mutex_) = false;               // needs to hear nothing more
    bool finished_ GUARDED_BY(mutex_) = false, closed_ GUARDED_BY(mutex_) = false, stopping_ GUARDED_BY(mutex_) = false;
    const std::function<uint64_t()> *awaited_ GUARDED_BY(mutex_) = nullptr;  // the draw that the caller waits for
    double wait_seconds_ GUARDED_BY(mutex_) = 0;
    Traffic traffic_ GUARDED_BY(mutex_);
    double ended_thread_cpu_ GUARDED_BY(mutex_) = 0;
    uint32_t useless_help_ = 0, help_again_after_ = 0;  // of the caller's thread, see `help`
    std::thread thread_;                                // of the caller's thread
};

}  // namespace replay
