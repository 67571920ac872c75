// The end of a buffer, on all ranks together: nobody leaves while another may still want records.
#include <algorithm>
#include <utility>

#include "buffer.h"
#include "error.h"
#include "patience.h"

namespace replay {

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
            if (rank != options_.rank) tell(rank, header(Kind::left));
    }
    wait_for_others([](const Peer &peer) { return peer.left || peer.lost; }, "after it had closed its buffer");
}

// Whether those live from whom something is expected still is asked all the time: they may take long.
void Buffer::wait_for_others(const std::function<bool(const Peer &)> &condition, const char *what) {
    Patience patience(options_.timeout_seconds);
    auto since = Clock::now();  // nobody was asked before
    while (!peers_.others(condition)) {
        check_failure();
        for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
            const std::chrono::duration<double> silence = Clock::now() - std::max(since, peers_[rank].heard);
            if (rank == options_.rank || condition(peers_[rank]) || silence.count() <= options_.timeout_seconds)
                continue;
            fail_with(RB_PEER, "rank " + std::to_string(rank) + " has been silent for " + text_of(silence) + ", " +
                                   what + refused());
            check_failure();
        }
        ask_for_life(condition);
        const auto due = Clock::now() + patience.pause();
        while (!failure_ && !peers_.others(condition) && changed_.wait_until(mutex_, due)) {
        }
        if (patience.overslept(due)) since = Clock::now();
    }
}

}  // namespace replay
