// The end of a buffer, on all ranks together: nobody leaves while another may still want records.
#include <algorithm>
#include <utility>

#include "buffer.h"
#include "error.h"

namespace replay {
namespace {

constexpr std::chrono::duration<double> PING_EVERY{0.5};

}  // namespace

void Buffer::close() {
    {
        Lock lock(mutex_);
        if (closed_) return;
        check_failure();
        if (transport_ && connected_) leave();
        closed_ = true;
    }
    stop_thread();
    transport_.reset();
    Lock lock(mutex_);
    draws_.clear(*pool_);  // records of draws that nobody receives may have come until now
}

void Buffer::leave() {
    if (!finished_) {
        wait_until_quiet();
        const std::vector<ClassCount> counts = changed_counts();
        Messages messages = request_messages(Kind::finished, 0, counts);
        told(counts);
        finished_ = true;
        Unlock unlocked(mutex_);
        send_all(std::move(messages));
        transport_->wake();  // others may have asked for more already
    }
    // Until every rank has finished and nothing that one asked for is left to be made or sent.
    wait_for_others(
        [&](const Peer &peer)
            REQUIRES(mutex_) { return peer.finished_after && served_ >= *peer.finished_after && unsent_parts_ == 0; },
        "and has not closed its buffer");
    // Who says `left` needs nobody any more; a rank that is gone by now has heard all it needed as well.
    {
        Unlock unlocked(mutex_);
        for (uint32_t rank = 0; rank < options_.ranks; ++rank)
            if (rank != options_.rank) tell(rank, {Kind::left, options_.rank});
    }
    wait_for_others([](const Peer &peer) { return peer.left || peer.lost; }, "after it had closed its buffer");
}

// Ask everybody who is still expected to say something whether they live, and wait for that.
void Buffer::wait_for_others(const std::function<bool(const Peer &)> &condition, const char *what) {
    const auto since = Clock::now();  // nobody was asked for a sign of life before
    const std::chrono::duration<double> pause =
        std::min(PING_EVERY, std::chrono::duration<double>(options_.timeout_seconds / 4));
    while (!peers_.others(condition)) {
        check_failure();
        for (uint32_t rank = 0; rank < options_.ranks; ++rank)
            if (rank != options_.rank && !condition(peers_[rank])) ask_for_life(rank, since, what);
        const auto limit = Clock::now() + std::chrono::duration_cast<Clock::duration>(pause);
        while (!failure_ && !peers_.others(condition) && changed_.wait_until(mutex_, limit)) {
        }
    }
}

void Buffer::ask_for_life(uint32_t rank, Clock::time_point since, const char *what) {
    const std::chrono::duration<double> silent = Clock::now() - std::max(since, peers_[rank].heard);
    if (silent.count() > options_.timeout_seconds) {
        fail_with(RB_PEER, "rank " + std::to_string(rank) + " was silent for " +
                               std::to_string(silent.count()).substr(0, 5) + " s, " + what);
        check_failure();
    }
    Unlock unlocked(mutex_);
    tell(rank, {Kind::ping, options_.rank});
}

}  // namespace replay
