// What goes wrong inside: memory that is not there, policies that throw, messages that lie. Nothing may end the
// process, hang, or get past the check of a length.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <random>

#include "../src/messages.h"
#include "../src/transport.h"
#include "local_transport.h"
#include "records.h"

using namespace replay;
using namespace replay::test;

namespace {

// Allocations of at least so many bytes fail.
std::atomic<size_t> refused_bytes{SIZE_MAX};

}  // namespace

// Not inlined: GCC takes a pair of which it sees one half for mismatched.
__attribute__((noinline)) void *operator new(size_t bytes) {
    void *memory = bytes < refused_bytes ? std::malloc(bytes ? bytes : 1) : nullptr;
    if (!memory) throw std::bad_alloc();
    return memory;
}
__attribute__((noinline)) void *operator new(size_t bytes, const std::nothrow_t &) noexcept {
    return bytes < refused_bytes ? std::malloc(bytes ? bytes : 1) : nullptr;
}
__attribute__((noinline)) void operator delete(void *memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void *memory, size_t) noexcept { std::free(memory); }

namespace {

enum Thrown { NO_MEMORY, A_FAULT, NO_EXCEPTION_CLASS };

// Uniform, but it throws once: in draw `at`, what `thrown` says.
class Throwing : public SamplingPolicy {
  public:
    explicit Throwing(const SamplingSetting &setting)
        : SamplingPolicy(setting), at_(static_cast<uint64_t>(setting.options.at("at"))),
          thrown_(static_cast<int>(setting.options.at("thrown"))), uniform_(registry().find("uniform").make(setting)) {}

    bool looks_at_classes() const override { return false; }

  private:
    void pick(const Census &census, const Stream &stream, uint64_t sequence, uint64_t n) override {
        if (sequence == at_ && armed_) {
            armed_ = false;
            if (thrown_ == NO_MEMORY) throw std::bad_alloc();
            if (thrown_ == A_FAULT) throw std::runtime_error("a fault of the policy");
            throw 7;
        }
        picks_ = uniform_->draw(census, stream, sequence, n);
    }

    const uint64_t at_;
    const int thrown_;
    bool armed_ = true;
    std::unique_ptr<SamplingPolicy> uniform_;
};

const SamplingPolicy::Register<Throwing> throwing("throwing", {"at", "thrown"});
constexpr double NEVER = 1e9;

Options with_throwing(uint32_t rank, uint32_t ranks, uint64_t capacity, double at, int thrown) {
    Options o = options(rank, ranks, capacity);
    o.sampling = "throwing";
    o.policy_options = {{"at", at}, {"thrown", static_cast<double>(thrown)}};
    return o;
}

rb_stats statistics(const Buffer &buffer) {
    rb_stats stats{};
    buffer.statistics(stats);
    return stats;
}

template <typename Call> bool throws(Call call) {
    try {
        call();
    } catch (...) {
        return true;
    }
    return false;
}

}  // namespace

TEST(a_request_that_fails_leaves_the_buffer_as_it_was) {
    for (int thrown : {NO_MEMORY, A_FAULT, NO_EXCEPTION_CLASS}) {
        Buffer buffer(with_throwing(0, 1, 30, 2, thrown), nullptr), twin(options(0, 1, 30), nullptr);
        for (Buffer *one : {&buffer, &twin}) {
            add(*one, numbers(0, 0, 50));
            for (int draw = 0; draw < 2; ++draw) one->request(7);
        }
        const rb_stats before = statistics(buffer);
        CHECK(throws([&] { buffer.request(7); }));
        const rb_stats after = statistics(buffer);
        CHECK_EQUAL(after.requests, before.requests);
        CHECK_EQUAL(after.pending, before.pending);
        for (Buffer *one : {&buffer, &twin}) {
            one->request(7);
            add(*one, numbers(0, 50, 50));
            one->request(9);
        }
        for (int draw = 0; draw < 4; ++draw) CHECK_EQUAL(Received(buffer).digest(0), Received(twin).digest(0));
        buffer.close();
    }
}

TEST(a_request_without_memory_for_its_records_leaves_the_buffer_as_it_was) {
    Buffer buffer(options(0, 1, 1000), nullptr), twin(options(0, 1, 1000), nullptr);
    for (Buffer *one : {&buffer, &twin}) add(*one, numbers(0, 0, 1000));
    refused_bytes = 1000;  // the table of the shuffle, made within the draw
    CHECK(throws([&] { buffer.request(500); }));
    refused_bytes = SIZE_MAX;
    CHECK_EQUAL(statistics(buffer).pending, 0u);
    for (Buffer *one : {&buffer, &twin}) one->request(500);
    CHECK_EQUAL(Received(buffer).digest(0), Received(twin).digest(0));
}

TEST(with_several_ranks_a_draw_that_fails_is_final_and_named) {
    const std::pair<int, const char *> faults[] = {{RB_SYSTEM, "out of memory"},
                                                   {RB_INTERNAL, "a fault of the policy"},
                                                   {RB_INTERNAL, "an exception of an unknown type"}};
    for (int round = 0; round < 30; ++round)
        for (int thrown : {NO_MEMORY, A_FAULT, NO_EXCEPTION_CLASS}) {
            Job job({with_throwing(0, 2, 30, 1, thrown), with_throwing(1, 2, 30, NEVER, thrown)});
            Buffer &first = *job.buffers[0], &second = *job.buffers[1];
            add(first, numbers(0, 0, 9));
            add(second, numbers(1, 0, 9));
            for (Buffer *one : {&first, &second}) one->request(5);
            for (Buffer *one : {&first, &second}) Received received(*one);
            first.request(5);
            second.request(5);  // from here rank 0 can make its draw, in whichever thread
            const auto &[status, message] = faults[thrown];
            CHECK_FAILS(Received received(first), status, message);
            CHECK_FAILS(first.request(5), status, message);
            CHECK_FAILS(first.close(), status, message);
            job.buffers[0].reset();
            CHECK_FAILS(Received received(second), RB_PEER, "rank 0");
        }
}

TEST(a_large_draw_that_fails_in_the_thread_is_named) {
    const Shape shape{7, 8000};
    for (int round = 0; round < 20; ++round) {
        Options o = with_throwing(0, 1, 400, 0, NO_MEMORY);
        o.fields = fields(shape);
        Buffer buffer(o, nullptr);
        add(buffer, numbers(0, 0, 400), shape);
        buffer.request(400);  // more than RB_INLINE_BYTES
        CHECK_FAILS(Received received(buffer, shape), RB_SYSTEM, "out of memory");
    }
}

TEST(blocks_can_be_given_back_without_memory) {
    Buffer buffer(options(0, 1, 30), nullptr);
    add(buffer, numbers(0, 0, 30));
    std::vector<rb_records> draws(40);
    for (rb_records &draw : draws) {
        buffer.request(5);
        buffer.receive(draw);
    }
    refused_bytes = 1;
    for (rb_records &draw : draws) rb_release(draw.lease);
    refused_bytes = SIZE_MAX;
    CHECK(statistics(buffer).staging_bytes < 40 * draws[0].lease_bytes);
    buffer.request(5);
    CHECK_EQUAL(Received(buffer).count(), 5u);
}

TEST(an_error_is_told_without_memory) {
    rb_buffer *buffer = nullptr;
    refused_bytes = 1;
    const int status = rb_create(nullptr, &buffer);
    refused_bytes = SIZE_MAX;
    CHECK(status != RB_OK && rb_error()[0] != '\0' && !buffer);
}

// ---- messages that lie ----------------------------------------------------------------------------------------------

TEST(lengths_of_messages_are_checked) {
    constexpr uint64_t HUGE_N = uint64_t{1} << 61;  // times 8 it is 0
    const std::vector<std::byte> body(64);
    const auto header = [](Kind kind, uint64_t n) { return Header{TOKEN, kind, 1, 0, n}; };
    const auto records = [&](uint64_t n, size_t bytes, uint64_t content, uint64_t room) {
        return read_records(header(Kind::records, n), body.data(), bytes, content, room).rows.size();
    };
    CHECK_EQUAL(records(2, 8 + 2 * (8 + 20), 20, 2), 2u);
    CHECK_FAILS(records(0, 0, 20, 2), RB_PEER, "0 records");
    CHECK_FAILS(records(2, 8 + 2 * (8 + 20), 20, 1), RB_PEER, "room for 1");
    CHECK_FAILS(records(2, 8 + 2 * (8 + 20) - 1, 20, 2), RB_PEER, "rank 1 sent 63 bytes for 2 records");
    CHECK_FAILS(records(HUGE_N, 0, 0, 10), RB_PEER, "room for 10");
    std::vector<std::byte> far(24);
    far[3] = std::byte{0x7f};
    CHECK_FAILS(read_records(header(Kind::records, 1), far.data(), 16, 0, 5), RB_PEER, "sent row");

    const auto update = [&](uint64_t n, size_t bytes, uint64_t row_bytes) {
        return read_update(header(Kind::update, n), body.data(), bytes, row_bytes).n;
    };
    CHECK_EQUAL(update(4, 64, 8), 4u);
    CHECK_FAILS(update(3, 64, 8), RB_PEER, "does not fit");
    CHECK_FAILS(update(HUGE_N, 0, 8), RB_PEER, "does not fit");
    CHECK_FAILS(update(4, 63, 8), RB_PEER, "does not fit");
    // As many as a rank puts into one message, and no more: that is what may have to be allocated.
    const uint64_t most = records_per_message(16);
    check_update(header(Kind::update, most), 16 * most, 8);
    CHECK_FAILS(check_update(header(Kind::update, most + 1), 16 * (most + 1), 8), RB_PEER, "does not fit");

    const std::string reason = "rank 2\nis \x1b[31m";
    const auto failed = failed_message(header(Kind::failed, 0), reason);
    Header head;
    std::memcpy(&head, failed->header.data(), sizeof head);
    CHECK_EQUAL(read_failed(head, failed->owned.data(), failed->owned.size()), "rank 2?is ?[31m");
    CHECK_FAILS(check_failed(head, head.n - 1), RB_PEER, "failed and sent");
    CHECK_FAILS(check_failed(header(Kind::failed, 1 << 20), 1 << 20), RB_PEER, "failed and sent");
    CHECK_EQUAL(failed_message(header(Kind::failed, 0), std::string(5000, 'a'))->owned.size(), 400u);
    CHECK_FAILS(check_empty(header(Kind::ping, 0), 1), RB_PEER, "1 bytes");
}

TEST(who_does_not_know_the_token_is_not_heard) {
    const auto heard = [](const Header &header, size_t bytes = sizeof(Header)) {
        return read_header(reinterpret_cast<const std::byte *>(&header), bytes, TOKEN, 0, 2).has_value();
    };
    const Header right{TOKEN, Kind::ping, 1};
    CHECK(heard(right));
    CHECK(!heard(right, sizeof right - 1));
    for (size_t bit = 0; bit < 8 * sizeof(Token); ++bit) {
        Header wrong = right;
        wrong.token[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        CHECK(!heard(wrong));
    }
    for (uint32_t source : {0u, 2u, UINT32_MAX}) {
        Header wrong = right;
        wrong.source = source;
        CHECK(!heard(wrong));
    }
}

TEST(changes_are_checked) {
    const Dissemination of_5(0, 5);  // hears of rank 4 in round 0, of 3 in round 1, of 1 in round 2
    const auto changes = [&](uint32_t source, uint64_t round, std::vector<ChangeHead> heads, size_t more = 0) {
        std::vector<std::byte> body(heads.size() * sizeof(ChangeHead) + more);
        if (!heads.empty()) std::memcpy(body.data(), heads.data(), heads.size() * sizeof(ChangeHead));
        return read_changes({TOKEN, Kind::changes, source, 7, round}, body.data(), body.size(), of_5, 2);
    };
    CHECK_EQUAL(changes(4, 0, {{4, 1, 8, 9, 0, 0}}).at(0).n, 8u);
    CHECK_EQUAL(changes(3, 1, {{2, 2, 8, 9, 0, 0}}).size(), 1u);
    CHECK_EQUAL(changes(1, 2, {{3, 2, 1, 2, 0, 0}, {0, 2, 8, 9, 0, 0}}).size(), 2u);  // 3, 4, 0, 1: all that it knows
    CHECK_EQUAL(changes(4, 0, {{4, 1, 8, 9, 0, 2}}, 16).at(0).counts.size(), 2u);
    CHECK_FAILS(changes(3, 0, {}), RB_PEER, "sent round 0 of the changes of draw 7, which is not from it");
    CHECK_FAILS(changes(4, 3, {}), RB_PEER, "sent round 3");
    CHECK_FAILS(changes(4, UINT64_MAX, {}), RB_PEER, "not from it");
    CHECK_FAILS(changes(4, 0, {{3, 1, 8, 9, 0, 0}}), RB_PEER, "of which it cannot know");
    CHECK_FAILS(changes(3, 1, {{1, 3, 8, 9, 0, 0}}), RB_PEER, "of which it cannot know");
    CHECK_FAILS(changes(3, 1, {{3, 2, 8, 9, 0, 0}}), RB_PEER, "of which it cannot know");  // beyond itself
    CHECK_FAILS(changes(1, 2, {{4, 2, 8, 9, 0, 0}}), RB_PEER, "of which it cannot know");  // beyond the last
    CHECK_FAILS(changes(3, 1, {{5, 1, 8, 9, 0, 0}}), RB_PEER, "of which it cannot know");
    CHECK_FAILS(changes(3, 1, {{3, 0, 8, 9, 0, 0}}), RB_PEER, "of which it cannot know");
    CHECK_FAILS(changes(3, 1, {{3, UINT32_MAX, 8, 9, 0, 0}}), RB_PEER, "of which it cannot know");
    CHECK_FAILS(changes(4, 0, {{4, 1, 8, 9, 1, 0}}), RB_PEER, "that has finished");
    CHECK_FAILS(changes(4, 0, {{4, 1, 8, 9, 2, 0}}), RB_PEER, "that has finished");
    CHECK_FAILS(changes(4, 0, {{4, 1, 8, 9, 0, 3}}, 16), RB_PEER, "told of 3 classes");
    CHECK_FAILS(changes(4, 0, {{4, 1, 8, 9, 0, 2}}, 15), RB_PEER, "in 15 bytes");
    CHECK_FAILS(changes(3, 1, {{2, 2, 8, 9, 0, 1}}, 8), RB_PEER, "1 classes of 2 ranks");
    CHECK_FAILS(changes(3, 1, {{3, 1, 8, 9, 0, 0}}, 1), RB_PEER, "end early");
    CHECK_FAILS(changes(4, 0, {{4, 1, 8, 9, 0, 0}}, 17), RB_PEER, "sent 41 bytes of changes, there can be 40");
    Change unknown{{4, 1, 8, 9, 0, 1}, {{2, 5}}};
    const auto message = changes_message({TOKEN, Kind::changes, 4, 7, 0}, {unknown});
    CHECK_FAILS(read_changes({TOKEN, Kind::changes, 4, 7, 0}, message->owned.data(), message->owned.size(), of_5, 2),
                RB_PEER, "counts class 2");
}

TEST(updates_are_made_in_order_and_once) {
    Updates updates;
    const auto take = [&](uint64_t draw, uint32_t rank, uint64_t number) {
        updates.take(draw, rank, number, {static_cast<uint32_t>(100 * draw + 10 * rank + number), {}, 0});
    };
    take(2, 1, 2), take(2, 0, 9), take(3, 0, 10), take(2, 1, 1), take(1, 3, 4);
    CHECK_FAILS(take(2, 1, 1), RB_PEER, "rank 1 sent update 1 twice");
    std::vector<uint32_t> seen;
    CHECK(!updates.any(0) && updates.any(1));
    updates.apply(2, [&](const Update &update) { seen.push_back(update.field); });
    CHECK(seen == (std::vector<uint32_t>{134, 209, 211, 212}));
    CHECK(!updates.any(2) && updates.any(3));
}

// What one rank after another tells rank 0, which is broken or alone knows of it.
TEST(what_contradicts_what_was_said_is_refused) {
    const auto said_by_1 = [](std::vector<std::pair<uint64_t, Change>> all, const char *expected) {
        Job job({options(0, 2, 30), options(1, 2, 30)});
        for (auto &[sequence, change] : all) {
            const auto message = changes_message({TOKEN, Kind::changes, 1, sequence, 0}, {change});
            job.network.slip_in(0, message->header, message->owned);
        }
        CHECK_FAILS(
            while (true) {
                job.buffers[0]->request(3);
                Received{*job.buffers[0]};
            },
            RB_PEER, expected);
    };
    said_by_1({{0, {{1, 1, 3, 31, 0, 0}, {}}}}, "rank 1 stores 31 records with a capacity of 30");
    said_by_1({{0, {{1, 1, 0, 0, 1, 0}, {}}}, {1, {{1, 1, 3, 0, 0, 0}, {}}}},
              "rank 1 asked for draw 1 after it had finished");
    said_by_1({{3, {{1, 1, 3, 0, 0, 0}, {}}}, {3, {{1, 1, 3, 0, 0, 0}, {}}}}, "rank 1 spoke of draw 3 twice");
}

// Every rank hears once of all that was said, in ceil(log2 ranks) rounds, whatever the order of the letters.
TEST(a_dissemination_reaches_all) {
    for (uint32_t ranks : {1, 2, 3, 4, 5, 7, 8, 13, 16, 33, 100}) {
        std::vector<Dissemination> all;
        for (uint32_t rank = 0; rank < ranks; ++rank) all.emplace_back(rank, ranks);
        std::vector<std::pair<uint32_t, Dissemination::Letter>> under_way;
        const auto post = [&](uint32_t from, Dissemination::Letters &&letters) {
            for (auto &letter : letters) under_way.emplace_back(from, std::move(letter));
        };
        std::mt19937 random(ranks);
        uint32_t announced = 0;
        size_t carried = 0;
        while (announced < ranks || !under_way.empty()) {
            if (announced < ranks && (under_way.empty() || random() % 3 == 0)) {
                std::optional<Change> change;  // of some, in runs of equal ones
                if (announced % 5) change = Change{{announced, 1, announced / 10, 7, 0, 0}, {}};
                post(announced, all[announced].announce(3, std::move(change)));
                ++announced;
                continue;
            }
            std::swap(under_way[random() % under_way.size()], under_way.back());
            auto [from, letter] = std::move(under_way.back());
            under_way.pop_back();
            CHECK_EQUAL(all[letter.peer].from(letter.round), from);
            for (const Change &change : letter.changes) CHECK(all[letter.peer].may_tell(from, letter.round, change));
            if (announced < ranks) CHECK(!all[letter.peer].complete(3));  // nobody is ahead of one that says nothing
            Dissemination::Letters more;
            CHECK(all[letter.peer].take(3, letter.round, std::move(letter.changes), more));
            post(letter.peer, std::move(more));
            ++carried;
        }
        CHECK_EQUAL(carried, size_t{ranks} * all[0].rounds());
        CHECK_EQUAL(all[0].rounds(), static_cast<uint32_t>(std::ceil(std::log2(ranks))));
        for (Dissemination &one : all) {
            CHECK(one.complete(3));
            std::vector<uint32_t> heard(ranks, UINT32_MAX);
            for (const Change &change : one.collect(3))
                for (uint32_t rank = change.first; rank < change.first + change.ranks; ++rank) heard[rank] = change.n;
            for (uint32_t rank = 0; rank < ranks; ++rank) CHECK_EQUAL(heard[rank], rank % 5 ? rank / 10 : UINT32_MAX);
        }
    }
}

// ---- UCX: C, through which no exception may pass --------------------------------------------------------------------

TEST(a_message_without_memory_for_its_body_is_an_error_of_progress) {
    if (!has_transport) return;
    constexpr size_t BYTES = 1 << 20;
    setenv("UCX_RNDV_THRESH", "0", 1);  // bodies are fetched after their headers, into memory of our own
    uint64_t arrived = 0;
    std::vector<std::unique_ptr<Transport>> both;
    for (uint32_t rank = 0; rank < 2; ++rank)
        both.push_back(make_transport(rank, 2, true,
                                      {[&](const std::byte *, size_t, const std::byte *, size_t bytes) {
                                           if (bytes == 7) throw std::runtime_error("refused by the handler");
                                           arrived += bytes;
                                       },
                                       [](const std::byte *, size_t, size_t bytes) { return bytes != 9; },
                                       [](uint32_t, const std::string &) {}}));
    unsetenv("UCX_RNDV_THRESH");
    for (uint32_t rank : {0u, 1u}) both[rank]->connect({both[0]->address(), both[1]->address()}, {1 - rank});
    std::vector<std::byte> body(BYTES);
    const auto send = [&](size_t bytes) {
        auto message = std::make_unique<Message>();
        message->header.resize(sizeof(Header));
        message->body = {{body.data(), bytes}};
        both[0]->send(1, std::move(message));
    };
    const auto carry = [&](uint64_t until) {  // true if an exception came out
        for (int i = 0; i < 100000 && arrived < until; ++i) {
            both[0]->progress();
            try {
                both[1]->progress();
            } catch (...) {
                return true;
            }
        }
        return false;
    };
    send(9);  // not expected: dropped
    send(BYTES);
    CHECK(!carry(BYTES));
    CHECK_EQUAL(arrived, BYTES);
    send(7);
    CHECK(carry(BYTES + 1));
    send(BYTES);
    refused_bytes = BYTES;
    const bool failed = carry(2 * BYTES);
    refused_bytes = SIZE_MAX;
    CHECK(failed);
    send(BYTES);  // it goes on
    CHECK(!carry(2 * BYTES));
    CHECK_EQUAL(arrived, 2 * BYTES);
}

RUN_TESTS
