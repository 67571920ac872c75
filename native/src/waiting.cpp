// What a call waits for, and what ends the waiting.
#include <algorithm>
#include <exception>
#include <limits>
#include <new>
#include <sstream>

#include "buffer.h"
#include "error.h"
#include "patience.h"

namespace replay {
namespace {

constexpr auto HELP_FOR = std::chrono::microseconds(200);
constexpr uint32_t MOST_USELESS_HELP = 127;  // calls

// "rank 1" or "ranks 1, 3"
std::string names(const std::vector<uint32_t> &ranks) {
    std::string list = ranks.size() == 1 ? "rank " : "ranks ";
    for (size_t i = 0; i < ranks.size(); ++i) list += (i ? ", " : "") + std::to_string(ranks[i]);
    return list;
}

}  // namespace

std::string text_of(Patience::Seconds time) {
    std::ostringstream text;
    text.precision(1);
    text << std::fixed << time.count() << " s";
    return text.str();
}

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
    if (transport_) transport_->wake();  // the others are told
}

// In between a rank that has finished has to serve.
void Buffer::lose(uint32_t rank, const std::string &why) {
    peers_[rank].lost = true;
    if (!(peers_[rank].finished_after && finished_) && !closed_) fail_with(RB_PEER, why);
    changed_.notify_all();
}

// Whatever was thrown: a thread that ended without saying so would leave the caller waiting.
void Buffer::fail_with_current_exception() noexcept {
    try {
        try {
            throw;
        } catch (const Error &error) {
            fail_with(error.status, error.what());
        } catch (const std::bad_alloc &) {
            fail_with(RB_SYSTEM, "out of memory");
        } catch (const std::exception &error) {
            fail_with(RB_INTERNAL, error.what());
        } catch (...) {
            fail_with(RB_INTERNAL, "an exception of an unknown type");
        }
    } catch (...) {  // not even memory for the message: one that is short needs none
        if (!failure_) failure_message_ = "out of memory";
        if (!failure_) failure_ = RB_SYSTEM;
        changed_.notify_all();
    }
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
    } catch (...) {
        Lock lock(mutex_);
        fail_with_current_exception();
    }
}

void Buffer::wait(const std::function<bool()> &ready) {
    {
        Unlock unlocked(mutex_);
        help(ready);
    }
    const auto began = Clock::now();
    Patience patience(options_.timeout_seconds);
    auto ask = patience.half();  // from then on the others are asked whether they live
    while (!failure_ && !ready()) {
        const auto due = std::min(ask, patience.end());
        if (changed_.wait_until(mutex_, due) || failure_ || ready()) continue;
        patience.overslept(due);
        if (patience.over()) {
            fail_with(RB_PEER, "waited " + text_of(Clock::now() - began) + " for " + who_is_missing() + refused());
        } else {
            ask_for_life([](const Peer &) { return false; });
            ask = Clock::now() + patience.pause();
        }
    }
    if (!ready()) check_failure();
}

// Ask those from whom something is expected still.
void Buffer::ask_for_life(const std::function<bool(const Peer &)> &done) {
    std::vector<uint32_t> asked;
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (rank != options_.rank && !peers_[rank].lost && !done(peers_[rank])) asked.push_back(rank);
    Unlock unlocked(mutex_);
    for (uint32_t rank : asked) tell(rank, header(Kind::ping));
}

void Buffer::wait_until_quiet() {
    if (quiet()) return;
    const auto started = Clock::now();
    wait([&]() REQUIRES(mutex_) { return quiet(); });
    wait_seconds_ += std::chrono::duration<double>(Clock::now() - started).count();
}

// Of the oldest draw that is not complete: who is silent, and who answers but has not done its part.
std::string Buffer::who_is_missing() const {
    uint64_t sequence = draws_.first();
    while (sequence < draws_.requested() && draws_.at(sequence).complete()) ++sequence;
    if (sequence == draws_.requested()) return "messages to be sent";
    std::string parts;
    const auto say = [&](const std::string &part) { parts += (parts.empty() ? ": " : "; ") + part; };
    std::vector<uint32_t> late;
    const auto answered = Clock::now() - 2 * Patience(options_.timeout_seconds).pause();
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
        if (rank == options_.rank) continue;
        const auto heard = peers_[rank].heard;
        if (heard < answered)
            say("rank " + std::to_string(rank) + " has been silent for " + text_of(Clock::now() - heard));
        else if (sequence < served_ ? draws_.at(sequence).missing[rank] > 0 : !peers_.has_asked(rank, sequence))
            late.push_back(rank);
    }
    const char *what = sequence < served_ ? " and has not sent its records" : " and has not asked for it";
    if (!late.empty()) say(names(late) + (late.size() == 1 ? " answers" : " answer") + what);
    return "draw " + std::to_string(sequence) + parts;
}

// A hint, where something is wrong anyway.
std::string Buffer::refused() const {
    if (!traffic_.refused) return "";
    return "; " + std::to_string(traffic_.refused) +
           " messages were dropped, because they came from no rank of this job";
}

}  // namespace replay
