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
constexpr size_t MOST_ASKED = 64;            // ranks that may hold up this one, which are asked whether they live

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

// A rank leaves only when all have taken their leave; until then it has to serve.
void Buffer::lose(uint32_t rank, const std::string &why) {
    peers_[rank].lost = true;
    if (!farewell_ && !closed_) fail_with(RB_PEER, why);
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

// `awaited`: the draw that this is about.
void Buffer::wait(const std::function<bool()> &ready, const std::function<uint64_t()> &awaited) {
    {
        Unlock unlocked(mutex_);
        help(ready);
    }
    awaited_ = &awaited;
    try {
        wait_patiently(ready, awaited);
    } catch (...) {
        awaited_ = nullptr;
        throw;
    }
    awaited_ = nullptr;
    if (!ready()) check_failure();
}

void Buffer::wait_patiently(const std::function<bool()> &ready, const std::function<uint64_t()> &awaited) {
    const auto began = Clock::now();
    Patience patience(options_.timeout_seconds);
    auto ask = patience.half();  // from then on those who are missing are asked whether they live
    std::vector<bool> asked(options_.ranks, true);
    while (!failure_ && !ready()) {
        const auto due = std::min(ask, patience.end());
        if (changed_.wait_until(mutex_, due) || failure_ || ready()) {
            if (!failure_ && Clock::now() >= patience.half()) ask_for_life(awaited(), asked);
            continue;
        }
        patience.overslept(due);
        if (patience.over()) {
            fail_with(RB_PEER,
                      "waited " + text_of(Clock::now() - began) + " for " + who_is_missing(awaited()) + refused());
        } else {
            asked.assign(options_.ranks, false);
            ask_for_life(awaited(), asked);
            ask = Clock::now() + patience.pause();
        }
    }
}

// `field` of a pong about a draw, see wire.h. A rank that has finished announces what the others do.
uint32_t Buffer::state_of(uint64_t sequence) const {
    if (sequence < served_ || finished_ || dissemination_.announced(sequence)) return 0;
    if (sequence < spoken_) return unnoted_.empty() ? 0 : 2 + unnoted_.begin()->first.second;
    if (!awaited_) return 1;
    // It cannot ask for this one, because it waits for one before.
    const uint64_t before = (*awaited_)();
    for (uint32_t rank = 0; rank < options_.ranks; ++rank)
        if (draws_.holds(before) && draws_.at(before).missing[rank] > 0) return 2 + rank;
    const uint32_t missing = before < served_ ? 0 : dissemination_.missing(before);
    for (uint32_t round = 0; round < dissemination_.rounds(); ++round)
        if (missing >> round & 1) return 2 + dissemination_.from(round);
    return 1;
}

Header Buffer::answer(uint64_t sequence) const {
    Header pong = header(Kind::pong, sequence, sequence < served_ ? 0 : dissemination_.missing(sequence));
    pong.field = state_of(sequence);
    return pong;
}

// Who holds up a draw: this rank's neighbours, or those for whom these say that they wait themselves, and so on.
std::vector<uint32_t> Buffer::waited_for(uint64_t sequence) const {
    std::vector<uint32_t> ranks;
    std::vector<bool> known(options_.ranks);
    known[options_.rank] = true;
    const auto add = [&](uint32_t rank) {
        if (!known[rank]) ranks.push_back(rank);
        known[rank] = true;
    };
    const auto add_sources = [&](uint32_t rank, uint32_t missing) REQUIRES(mutex_) {
        for (uint32_t round = 0; round < dissemination_.rounds(); ++round)
            if (missing >> round & 1) add(dissemination_.source_of(rank, round));
    };
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
        const bool takes = sequence >= served_ && peers_[rank].to_be_sent;
        if (takes || (draws_.holds(sequence) && draws_.at(sequence).missing[rank] > 0)) add(rank);
    }
    if (sequence < served_ || (!finished_ && sequence >= draws_.requested())) return ranks;
    if (finished_ && !farewell_) {
        for (uint32_t rank = 0; rank < options_.ranks && ranks.size() < MOST_ASKED; ++rank)
            if (!peers_[rank].finished) add(rank);
        return ranks;
    }
    if (state_of(sequence) >= 2) add(state_of(sequence) - 2);
    add_sources(options_.rank, dissemination_.missing(sequence));
    for (size_t i = 0; i < ranks.size() && ranks.size() < MOST_ASKED; ++i) {
        const Answer &answer = peers_[ranks[i]].answer;
        if (answer.sequence != sequence) continue;
        if (answer.state == 0) add_sources(ranks[i], answer.missing);
        if (answer.state >= 2 && answer.state - 2 < options_.ranks) add(answer.state - 2);
    }
    return ranks;
}

// Ask those who hold up a draw, each once: `asked` [ranks].
void Buffer::ask_for_life(uint64_t sequence, std::vector<bool> &asked) {
    std::vector<uint32_t> now;
    for (uint32_t rank : waited_for(sequence)) {
        Peer &peer = peers_[rank];
        if (asked[rank] || peer.lost) continue;
        asked[rank] = true;
        if (!peer.asked) peer.asked = Clock::now();
        now.push_back(rank);
    }
    Unlock unlocked(mutex_);
    for (uint32_t rank : now) tell(rank, header(Kind::ping, sequence));
}

void Buffer::wait_until_quiet() {
    if (quiet()) return;
    const auto started = Clock::now();
    wait([&]() REQUIRES(mutex_) { return quiet(); }, [&]() REQUIRES(mutex_) { return served_; });
    wait_seconds_ += std::chrono::duration<double>(Clock::now() - started).count();
}

// The oldest draw that is not complete, or the one that would be next.
uint64_t Buffer::first_incomplete() const {
    uint64_t sequence = draws_.first();
    while (sequence < draws_.requested() && draws_.at(sequence).complete()) ++sequence;
    return sequence;
}

// Who is silent, and who answers but has not done its part.
std::string Buffer::who_is_missing(uint64_t sequence) const {
    const bool sending = sequence >= draws_.requested();
    std::string parts;
    const auto say = [&](const std::string &part) { parts += (parts.empty() ? ": " : "; ") + part; };
    std::vector<uint32_t> late;
    const auto answered = Clock::now() - Patience(options_.timeout_seconds).pause() / 2;
    for (uint32_t rank : waited_for(sequence)) {
        const Peer &peer = peers_[rank];
        const bool has_not_asked = peer.answer.sequence == sequence && peer.answer.state == 1;
        if (peer.asked && *peer.asked < answered)
            say("rank " + std::to_string(rank) + " has been silent for " + text_of(Clock::now() - peer.heard));
        else if (sequence < served_ || sending || has_not_asked) late.push_back(rank);
    }
    const char *what = sequence < served_ ? "not sent its records"
                       : sending          ? "not taken its records"
                                          : "not asked for it";
    if (!late.empty()) say(names(late) + (late.size() == 1 ? " answers and has " : " answer and have ") + what);
    return (sending ? "messages to be sent" : "draw " + std::to_string(sequence)) + parts;
}

// A hint, where something is wrong anyway.
std::string Buffer::refused() const {
    if (!traffic_.refused) return "";
    return "; " + std::to_string(traffic_.refused) +
           " messages were dropped, because they came from no rank of this job";
}

}  // namespace replay
