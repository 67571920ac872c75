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
        const std::string what = "and has not asked for draw " + std::to_string(served_);
        wait_for_others([&]() REQUIRES(mutex_) { return quiet(); }, what.c_str());
        hold(changed(0, true));
        finished_ = true;
        // Of later draws others may have spoken before.
        if (dissemination_.heard_up_to()) check_near(options_.rank, dissemination_.heard_up_to() - 1);
        while (spoken_ < dissemination_.heard_up_to()) hold({});
        Unlock unlocked(mutex_);
        announce();
        transport_->wake();  // others may have asked for more already
    }
    // Until every rank has finished, and nothing that one asked for is left to be made or sent.
    wait_for_others([&]() REQUIRES(mutex_) { return all_finished() && unsent_parts_ == 0; },
                    "and has not closed its buffer");
    // Now all ranks have announced the same number of draws. The next one is none: who announces it has sent all that
    // it ever will but these last messages, and who knows that all have announced it is needed by nobody any more.
    if (!farewell_) {
        farewell_ = spoken_;
        hold({});
    }
    {
        Unlock unlocked(mutex_);
        announce();
        transport_->wake();
    }
    const auto lost = [&]() REQUIRES(mutex_) {
        return std::any_of(peers_.begin(), peers_.end(), [](const Peer &peer) { return peer.lost; });
    };
    wait_for_others([&]() REQUIRES(mutex_) { return served_ > *farewell_ || lost(); },
                    "after it had closed its buffer");
    if (served_ > *farewell_) return;
    // A rank that is gone by now has known that all had said farewell. So need the others no longer wait for this one.
    parted_ = true;
    Messages messages;
    add_letters(messages, dissemination_.give_up(*farewell_));
    Unlock unlocked(mutex_);
    send_all(std::move(messages));
}

// Whether those live who keep this rank waiting is asked all the time: they may take long.
void Buffer::wait_for_others(const std::function<bool()> &over, const char *what) {
    Patience patience(options_.timeout_seconds);
    auto since = Clock::now();
    std::vector<bool> asked(options_.ranks, true);  // not in the first pause, which is mostly enough
    while (!over()) {
        check_failure();
        for (uint32_t rank : waited_for(served_)) {
            const Peer &peer = peers_[rank];
            if (!peer.asked) continue;
            const std::chrono::duration<double> silence = Clock::now() - std::max(since, *peer.asked);
            if (silence.count() <= options_.timeout_seconds) continue;
            fail_with(RB_PEER, "rank " + std::to_string(rank) + " has been silent for " + text_of(silence) + ", " +
                                   what + refused());
            check_failure();
        }
        const auto due = Clock::now() + patience.pause();
        bool in_time = true;
        while (in_time && !failure_ && !over()) {
            ask_for_life(served_, asked);  // those to whom answers have led as well
            if (!failure_ && !over()) in_time = changed_.wait_until(mutex_, due);
        }
        if (patience.overslept(due)) since = Clock::now();
        asked.assign(options_.ranks, false);
    }
}

}  // namespace replay
