// What goes wrong inside: memory that is not there, policies that throw, messages that lie. Nothing may end the
// process, hang, or get past the check of a length.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

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

    const auto request = [&](uint64_t n, size_t bytes) {
        return read_request(header(Kind::request, n), body.data(), bytes, 2, 10).counts.size();
    };
    CHECK_EQUAL(request(5, 16), 2u);
    CHECK_FAILS(request(5, 24), RB_PEER, "24 bytes of counts");  // for 2 classes
    CHECK_FAILS(request(5, 12), RB_PEER, "12 bytes of counts");
    CHECK_FAILS(request(HUGE_N, 0), RB_PEER, "asked for a draw");
    const ClassCount unknown{1, 5};
    CHECK_FAILS(read_request(header(Kind::request, 5), reinterpret_cast<const std::byte *>(&unknown), 8, 1, 10),
                RB_PEER, "counts class 1");
    Header many = header(Kind::request, 5);
    many.stored = 11;
    CHECK_FAILS(read_request(many, nullptr, 0, 1, 10), RB_PEER, "stores 11 records with a capacity of 10");

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

TEST(what_a_peer_says_twice_is_refused) {
    Peers peers(0, 2);
    peers.take_request(1, 3, {}, 0);
    CHECK_FAILS(peers.take_request(1, 3, {}, 0), RB_PEER, "draw 3 twice");
    CHECK_FAILS(peers.take_request(1, 1, {}, 2), RB_PEER, "draw 1 twice");
    peers.take_update(1, 2, {0, {}, 0});
    CHECK_FAILS(peers.take_update(1, 2, {0, {}, 0}), RB_PEER, "update 2 twice");
    peers.take_update(1, 1, {0, {}, 0});
    CHECK_EQUAL(peers[1].updates_received, 2u);
    CHECK_FAILS(peers.take_update(1, 1, {0, {}, 0}), RB_PEER, "update 1 twice");
}

TEST(what_contradicts_the_end_of_a_rank_is_refused) {
    Peers peers(0, 2);
    peers.take_request(1, 3, {}, 2);
    CHECK_FAILS(peers.take_finished(1, 3, {}, 2), RB_PEER, "finished after 3 draws");  // number 3 is the fourth
    CHECK_FAILS(peers.take_finished(1, 1, {}, 2), RB_PEER, "finished after 1 draws");
    peers.take_finished(1, 4, {}, 2);
    CHECK_FAILS(peers.take_finished(1, 4, {}, 2), RB_PEER, "twice");
    CHECK_FAILS(peers.take_request(1, 4, {}, 2), RB_PEER, "asked for draw 4 after");
    peers.take_request(1, 2, {}, 2);  // it was overtaken
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
    for (const auto &one : both) one->connect({both[0]->address(), both[1]->address()});
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
