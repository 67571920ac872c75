// The buffer: a shard, the draws that are on their way, and what the other ranks have asked for.
//
// A draw is made ("served") on every rank once that rank has the requests of all ranks for it: it computes the picks of
// each requester, copies those that lie in its own shard, and sends them. Until then its shard must not change, so
// `add` waits. In training, where gradients are exchanged in every step, there is nothing left to wait for by then.
//
// Two threads: the caller's, and the buffer's own, which alone runs the transport's `progress`. The shard belongs to
// whoever is serving while draws are unserved, and to the caller otherwise; all else is guarded by `mutex_`, which is
// never held while a message is sent.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "../include/replay.h"
#include "mapping.h"
#include "sampling.h"
#include "shard.h"
#include "snapshot.h"
#include "staging.h"
#include "transport.h"
#include "wire.h"

namespace replay {

struct Options {
    uint64_t capacity, seed;
    uint32_t num_classes, rank, ranks, label_field;
    std::string insertion, sampling;
    PolicyOptions policy_options;  // just those that the two policies declare
    std::vector<FieldInfo> fields;
    double timeout_seconds;
};

using MakeTransport = std::function<std::unique_ptr<Transport>(uint32_t rank, uint32_t ranks, Transport::Events)>;

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
    void save(const std::string &path);
    std::vector<uint64_t> load(const std::vector<std::string> &paths);
    void close();

  private:
    using Clock = std::chrono::steady_clock;

    struct Draw {
        uint64_t n;
        std::unique_ptr<Staging> staging;
        bool served = false;  // by this rank: only then is the number of its records known
        uint64_t expected = 0, arrived = 0;
        std::vector<int64_t> missing{};  // [ranks] records that are expected and have not arrived; below 0 until served
        bool complete() const { return served && arrived == expected; }
    };
    struct Request {
        uint64_t n, updates, stored;
        std::vector<ClassCount> counts;
    };
    struct Update {
        uint32_t field;
        std::vector<std::byte> names_and_rows;
        uint64_t n;
    };
    struct Peer {
        std::map<uint64_t, Request> requests;  // by number of the draw, those not served yet
        std::map<uint64_t, Update> updates;    // by number, those not applied yet
        uint64_t updates_received = 0, updates_applied = 0, updates_sent = 0;
        std::optional<uint64_t> finished_after;  // number of requests it made in all
        Request last{};                          // in place of those that it does not make any more
        bool left = false, lost = false;
        std::vector<Memory> columns;  // of its shard, where this rank may read them
        bool reads = false;           // whether it reads this rank's shard itself
        Clock::time_point heard;
    };
    // What one rank has to copy for one draw of one requester.
    struct Part {
        uint32_t requester;
        uint64_t sequence;
        std::vector<uint32_t> rows;
        std::vector<Slot> slots;
    };

    // ---- with `mutex_` held
    using Lock = std::unique_lock<std::mutex>;
    void check_usable() const;
    void check_failure() const;
    bool peer_has_asked(uint32_t rank, uint64_t sequence) const;
    bool can_serve() const;
    bool quiet() const { return served_ == requested_ && unsent_parts_ == 0; }
    void wait_until_quiet(Lock &lock);
    void wait(Lock &lock, const std::function<bool()> &ready, const std::function<std::string()> &missing);
    std::vector<Part> plan();
    void apply_updates(uint32_t rank, uint64_t through);
    std::string silent_ranks(uint64_t sequence) const;
    void forget_draws();
    std::vector<ClassCount> changed_counts();
    std::vector<std::unique_ptr<Message>> request_messages(Kind kind, uint64_t sequence, uint64_t n);
    void fail_with(int status, const std::string &message);

    // ---- without it
    bool serve(uint64_t most_bytes);
    void copy_own(const Part &part);
    void send_part(Part &&part);
    void help(const std::function<bool()> &ready);
    void tell(uint32_t peer, const Header &header);
    void tell_all(const Header &header);
    void run();
    void start_thread();
    void stop_thread();
    void on_message(const std::byte *header, size_t header_bytes, const std::byte *body, size_t body_bytes);
    void take_records(const Header &header, const std::byte *body, size_t bytes);
    void map_shard_of(Peer &peer, const std::byte *addresses);
    void take_request(const Header &header, const std::byte *body, size_t bytes);
    void take_update(const Header &header, const std::byte *body, size_t bytes);
    void on_lost(uint32_t peer, const std::string &reason);
    Draw &draw(uint64_t sequence);
    void check_loaded(const Saved &saved, const std::string &path) const;

    const Options options_;
    uint64_t row_bytes_ = 0;  // of all fields
    Shard shard_;
    std::vector<Stream> streams_;  // of draws, one per rank
    std::shared_ptr<StagingPool> pool_;
    std::unique_ptr<Transport> transport_;  // none with one rank
    bool connected_;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Draw> draws_;   // not received yet
    uint64_t first_draw_ = 0;  // number of draws_.front()
    uint64_t requested_ = 0;   // draws requested by this rank
    uint64_t served_ = 0;      // of these, made
    bool serving_ = false;
    uint64_t unsent_parts_ = 0;        // messages that still read from the shard
    Census census_;                    // as of the newest draw made
    std::vector<SavedUpdate> unseen_;  // updates since the last request, for a file; one rank does them at once
    std::vector<uint64_t> told_;       // [num_classes] counts that the others know of this shard
    std::unique_ptr<SamplingPolicy> sampling_;
    std::vector<Peer> peers_;
    int failure_ = RB_OK;
    std::string failure_message_;
    bool finished_ = false, closed_ = false, stopping_ = false;
    uint32_t useless_help_ = 0, help_again_after_ = 0;  // of the caller's thread, see `help`
    double wait_seconds_ = 0;
    uint64_t messages_sent_ = 0, messages_received_ = 0, bytes_sent_ = 0, bytes_received_ = 0;
    double ended_thread_cpu_ = 0;
    std::thread thread_;
    std::condition_variable work_;  // for the thread where there is no transport to sleep in
};

}  // namespace replay
