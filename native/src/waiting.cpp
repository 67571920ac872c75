// What a call waits for, and what ends the waiting.
#include <algorithm>
#include <exception>
#include <limits>
#include <new>

#include "buffer.h"
#include "error.h"

namespace replay {
namespace {

constexpr auto HELP_FOR = std::chrono::microseconds(200);
constexpr uint32_t MOST_USELESS_HELP = 127;  // calls

}  // namespace

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

void Buffer::wait(const std::function<bool()> &ready, const std::function<std::string()> &missing) {
    {
        Unlock unlocked(mutex_);
        help(ready);
    }
    const std::chrono::duration<double> timeout(options_.timeout_seconds);
    const auto limit = Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout);
    while (!failure_ && !ready())
        if (!changed_.wait_until(mutex_, limit) && !failure_ && !ready())
            fail_with(RB_PEER, missing() + " for " + std::to_string(options_.timeout_seconds).substr(0, 5) + " s");
    if (!ready()) check_failure();
}

void Buffer::wait_until_quiet() {
    if (quiet()) return;
    const auto started = Clock::now();
    wait([&]() REQUIRES(mutex_) { return quiet(); }, [&]() REQUIRES(mutex_) { return silent_ranks(served_); });
    wait_seconds_ += std::chrono::duration<double>(Clock::now() - started).count();
}

std::string Buffer::silent_ranks(uint64_t sequence) const {
    const std::string draw = "draw " + std::to_string(sequence);
    if (sequence >= served_ && sequence < draws_.requested()) {
        const std::string silent = peers_.silent_ranks(sequence);
        if (!silent.empty()) return draw + " was not requested by rank " + silent;
    }
    if (!draws_.holds(sequence)) return "messages to other ranks were not sent";
    return "records of " + draw + " did not come from rank " + draws_.missing_ranks(sequence);
}

}  // namespace replay
