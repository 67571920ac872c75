// The C functions: each mistake of a caller is RB_INVALID with a message, and changes nothing. With UCX, two ranks in
// one process over the real transport as well. A program in C is abi.c.
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "../include/replay.h"
#include "check.h"
#include "process.h"

using namespace replay::test;

namespace {

constexpr uint32_t CLASSES = 3;
constexpr uint64_t CAPACITY = 8;

const rb_field FIELDS[] = {{sizeof(rb_field), "y", 8}, {sizeof(rb_field), "x", 4}};

rb_options options(uint32_t rank = 0, uint32_t ranks = 1) {
    rb_options o{};
    o.size = sizeof o;
    o.capacity = CAPACITY;
    o.num_classes = CLASSES;
    o.insertion = "reservoir";
    o.sampling = "uniform";
    o.seed = 5;
    o.rank = rank;
    o.ranks = ranks;
    o.fields = FIELDS;
    o.num_fields = 2;
    o.timeout_seconds = 20;
    return o;
}

rb_stats statistics(rb_buffer *buffer) {
    rb_stats stats{};
    stats.size = sizeof stats;
    CHECK_EQUAL(rb_get_stats(buffer, &stats), RB_OK);
    return stats;
}

bool has_transport() {
    rb_options o = options();
    rb_buffer *buffer;
    CHECK_EQUAL(rb_create(&o, &buffer), RB_OK);
    const bool has = statistics(buffer).transport;
    rb_destroy(buffer);
    return has;
}

const int64_t LABELS[] = {0, 1, 2, 0, 1};
const float VALUES[] = {0, 1, 2, 3, 4};
const void *const COLUMNS[] = {LABELS, VALUES};

// That label and value of each record belong together.
void check_rows(const rb_records &records) {
    const auto *labels = static_cast<const int64_t *>(records.columns[0]);
    const auto *values = static_cast<const float *>(records.columns[1]);
    for (uint64_t i = 0; i < records.count; ++i) CHECK_EQUAL(labels[i], LABELS[static_cast<int>(values[i])]);
}

struct Owned {
    explicit Owned(const rb_options &o = options()) {
        const int status = rb_create(&o, &buffer);
        CHECK_THAT(status == RB_OK, rb_error());
    }
    ~Owned() { rb_destroy(buffer); }
    rb_buffer *buffer = nullptr;
};

// That it is refused as a mistake, with words.
void check_invalid(int status, const char *what, int expected = RB_INVALID) {
    CHECK_THAT(status == expected, what << " gave " << status << ": " << rb_error());
    CHECK_THAT(std::strlen(rb_error()) > 5, what << " has the message " << rb_error());
}
rb_policy_option option(const char *name, double value) { return {sizeof(rb_policy_option), name, value}; }
const rb_policy_option ONE_CANDIDATE = option("candidates", 1);

// Sets policy options, which live until the next call.
void give(rb_options &o, std::vector<rb_policy_option> options) {
    static std::vector<rb_policy_option> given;
    given = std::move(options);
    o.policy_options = given.data();
    o.num_policy_options = static_cast<uint32_t>(given.size());
}

#define CHECK_INVALID(call) check_invalid(call, #call)

}  // namespace

TEST(policies_have_names) {
    const auto names = [](const char *(*name)(uint32_t)) {
        std::vector<std::string> all;
        while (name(static_cast<uint32_t>(all.size()))) all.push_back(name(static_cast<uint32_t>(all.size())));
        return all;
    };
    CHECK((names(rb_insertion_policy) == std::vector<std::string>{"candidates", "class_balanced", "reservoir"}));
    CHECK((names(rb_sampling_policy) == std::vector<std::string>{"class_balanced", "uniform"}));
    CHECK(!rb_insertion_policy(UINT32_MAX) && !rb_sampling_policy(UINT32_MAX));
    rb_options o = options();
    o.insertion = "lifo";
    rb_buffer *buffer = nullptr;
    check_invalid(rb_create(&o, &buffer), "an unknown insertion policy");
    CHECK_EQUAL(std::string(rb_error()),
                "insertion policy lifo does not exist; valid: candidates, class_balanced, reservoir");
}

TEST(options_that_make_no_sense) {
    const struct {
        const char *what;
        std::function<void(rb_options &)> change;
    } mistakes[] = {
        {"size", [](auto &o) { o.size += 8; }},
        {"no size", [](auto &o) { o.size = 0; }},
        {"capacity 0", [](auto &o) { o.capacity = 0; }},
        {"capacity 2^26", [](auto &o) { o.capacity = 1 << 26; }},
        {"capacity -1", [](auto &o) { o.capacity = ~uint64_t{0}; }},
        {"no class", [](auto &o) { o.num_classes = 0; }},
        {"no insertion policy", [](auto &o) { o.insertion = nullptr; }},
        {"an unknown insertion policy", [](auto &o) { o.insertion = "lifo"; }},
        {"no sampling policy", [](auto &o) { o.sampling = nullptr; }},
        {"an unknown sampling policy", [](auto &o) { o.sampling = "reservoir"; }},
        {"an option that no policy has", [](auto &o) { give(o, {ONE_CANDIDATE}); }},
        {"a missing option", [](auto &o) { o.insertion = "candidates"; }},
        {"options without any",
         [](auto &o) { o.insertion = "candidates", o.policy_options = nullptr, o.num_policy_options = 1; }},
        {"the size of an option", [](auto &o) { o.insertion = "candidates", give(o, {{8, "candidates", 1}}); }},
        {"an option without a name", [](auto &o) { o.insertion = "candidates", give(o, {option(nullptr, 1)}); }},
        {"an option twice", [](auto &o) { o.insertion = "candidates", give(o, {ONE_CANDIDATE, ONE_CANDIDATE}); }},
        {"half a candidate", [](auto &o) { o.insertion = "candidates", give(o, {option("candidates", 0.5)}); }},
        {"1.5 candidates", [](auto &o) { o.insertion = "candidates", give(o, {option("candidates", 1.5)}); }},
        {"-1 candidates", [](auto &o) { o.insertion = "candidates", give(o, {option("candidates", -1)}); }},
        {"NaN candidates", [](auto &o) { o.insertion = "candidates", give(o, {option("candidates", std::nan(""))}); }},
        {"1e300 candidates", [](auto &o) { o.insertion = "candidates", give(o, {option("candidates", 1e300)}); }},
        {"candidates without room",
         [](auto &o) { o.insertion = "candidates", give(o, {ONE_CANDIDATE}), o.num_classes = CAPACITY + 1; }},
        {"no rank", [](auto &o) { o.ranks = 0; }},
        {"rank 1 of 1", [](auto &o) { o.rank = 1; }},
        {"5000 ranks", [](auto &o) { o.ranks = 5000; }},
        {"no fields", [](auto &o) { o.fields = nullptr; }},
        {"0 fields", [](auto &o) { o.num_fields = 0; }},
        {"label field 2", [](auto &o) { o.label_field = 2; }},
        {"a label of 4 bytes", [](auto &o) { o.label_field = 1; }},
        {"timeout 0", [](auto &o) { o.timeout_seconds = 0; }},
        {"timeout -1", [](auto &o) { o.timeout_seconds = -1; }},
        {"timeout NaN", [](auto &o) { o.timeout_seconds = std::nan(""); }},
        {"timeout inf", [](auto &o) { o.timeout_seconds = std::numeric_limits<double>::infinity(); }},
        {"timeout 1e9", [](auto &o) { o.timeout_seconds = 1e9; }},
    };
    for (const auto &mistake : mistakes) {
        rb_options o = options();
        mistake.change(o);
        rb_buffer *buffer = nullptr;
        check_invalid(rb_create(&o, &buffer), mistake.what);
        CHECK(!buffer);
    }
    const struct {
        const char *what;
        std::function<void(rb_field &)> change;
    } field_mistakes[] = {
        {"size of a field", [](auto &f) { f.size -= 1; }},
        {"a field without a name", [](auto &f) { f.name = nullptr; }},
        {"a field with an empty name", [](auto &f) { f.name = ""; }},
        {"a field of 0 bytes", [](auto &f) { f.row_bytes = 0; }},
    };
    for (const auto &mistake : field_mistakes) {
        rb_field fields[] = {FIELDS[0], FIELDS[1]};
        mistake.change(fields[1]);
        rb_options o = options();
        o.fields = fields;
        rb_buffer *buffer = nullptr;
        check_invalid(rb_create(&o, &buffer), mistake.what);
        CHECK(!buffer);
    }
    rb_options o = options();
    rb_buffer *buffer = nullptr;
    CHECK_INVALID(rb_create(nullptr, &buffer));
    CHECK_INVALID(rb_create(&o, nullptr));
}

// More memory than there are addresses, also where the product wraps around.
TEST(memory_that_nobody_has) {
    for (uint64_t bytes : {uint64_t{1} << 60, uint64_t{1} << 61, ~uint64_t{0}, uint64_t{1} << 44}) {
        rb_field fields[] = {FIELDS[0], {sizeof(rb_field), "x", bytes}};
        rb_options o = options();
        o.capacity = 1 << 20;
        o.fields = fields;
        rb_buffer *buffer = nullptr;
        const int status = rb_create(&o, &buffer);
        CHECK_THAT(status == RB_SYSTEM || status == RB_INVALID, bytes << " bytes for a row gave " << status);
        CHECK(!buffer);
    }
}

TEST(arguments_that_are_missing) {
    const Owned owned;
    rb_buffer *b = owned.buffer;
    const void *address;
    size_t length = 0;
    rb_records records{};
    rb_stats stats{};
    uint32_t pending;
    uint64_t sizes[1], id = 0;
    rb_copy *copy;
    const char *const paths[] = {"/nowhere/file"}, *const no_path[] = {nullptr};
    const void *const addresses[] = {&length};

    CHECK_INVALID(rb_address(nullptr, &address, &length));
    CHECK_INVALID(rb_connect(nullptr, addresses, &length));
    CHECK_INVALID(rb_add(nullptr, 5, COLUMNS));
    CHECK_INVALID(rb_update(nullptr, 1, 1, &id, VALUES));
    CHECK_INVALID(rb_request(nullptr, 1));
    CHECK_INVALID(rb_receive(nullptr, &records));
    CHECK_INVALID(rb_get_stats(nullptr, &stats));
    CHECK_INVALID(rb_take_copy(nullptr, &copy));
    CHECK_INVALID(rb_write_copy(nullptr, "/nowhere/file"));
    CHECK_INVALID(rb_load(nullptr, paths, 1, sizes, 1, &pending));
    CHECK_INVALID(rb_close(nullptr));
    rb_release(nullptr);
    rb_free_copy(nullptr);
    rb_destroy(nullptr);

    CHECK_INVALID(rb_address(b, nullptr, &length));
    CHECK_INVALID(rb_address(b, &address, nullptr));
    CHECK_INVALID(rb_address(b, &address, &length));  // one rank has none
    CHECK_INVALID(rb_connect(b, nullptr, &length));
    CHECK_INVALID(rb_connect(b, addresses, nullptr));
    CHECK_INVALID(rb_connect(b, addresses, &length));
    CHECK_INVALID(rb_add(b, 1, nullptr));
    CHECK_INVALID(rb_add(b, uint64_t{1} << 32, COLUMNS));
    const void *const half[] = {LABELS, nullptr}, *const other_half[] = {nullptr, VALUES};
    CHECK_INVALID(rb_add(b, 1, half));
    CHECK_INVALID(rb_add(b, 1, other_half));
    CHECK_INVALID(rb_update(b, 1, 1, nullptr, VALUES));
    CHECK_INVALID(rb_update(b, 1, 1, &id, nullptr));
    CHECK_INVALID(rb_receive(b, nullptr));
    CHECK_INVALID(rb_get_stats(b, nullptr));
    CHECK_INVALID(rb_take_copy(b, nullptr));
    CHECK_EQUAL(rb_take_copy(b, &copy), RB_OK);
    CHECK_INVALID(rb_write_copy(copy, nullptr));
    check_invalid(rb_write_copy(copy, paths[0]), "no folder", RB_SYSTEM);
    rb_free_copy(copy);
    CHECK_INVALID(rb_load(b, nullptr, 1, sizes, 1, &pending));
    CHECK_INVALID(rb_load(b, paths, 0, sizes, 1, &pending));
    CHECK_INVALID(rb_load(b, paths, 1, nullptr, 1, &pending));
    CHECK_INVALID(rb_load(b, paths, 1, sizes, 1, nullptr));
    CHECK_INVALID(rb_load(b, no_path, 1, sizes, 1, &pending));
    CHECK_INVALID(rb_check(nullptr, paths, 1));
    CHECK_INVALID(rb_check(b, no_path, 1));
    check_invalid(rb_check(b, paths, 1), "no file", RB_SYSTEM);
    check_invalid(rb_load(b, paths, 1, sizes, 1, &pending), "no file", RB_SYSTEM);

    stats.size = sizeof stats - 8;
    CHECK_INVALID(rb_get_stats(b, &stats));
    records.size = sizeof records + 8;
    CHECK_EQUAL(rb_add(b, 5, COLUMNS), RB_OK);
    CHECK_EQUAL(rb_request(b, 2), RB_OK);
    CHECK_INVALID(rb_receive(b, &records));
    records.size = sizeof records;
    CHECK_EQUAL(rb_receive(b, &records), RB_OK);
    CHECK_EQUAL(records.count, 2);
    rb_release(records.lease);
    CHECK_EQUAL(statistics(b).stored, 5);
}

TEST(nothing_to_do_is_no_mistake) {
    const Owned owned;
    CHECK_EQUAL(rb_add(owned.buffer, 0, COLUMNS), RB_OK);
    CHECK_EQUAL(rb_add(owned.buffer, 0, nullptr), RB_OK);
    CHECK_EQUAL(rb_update(owned.buffer, 1, 0, nullptr, nullptr), RB_OK);
    CHECK_EQUAL(rb_request(owned.buffer, 5), RB_OK);
    rb_records records{};
    records.size = sizeof records;
    CHECK_EQUAL(rb_receive(owned.buffer, &records), RB_OK);
    CHECK_EQUAL(records.count, 0);
    rb_release(records.lease);
    CHECK_EQUAL(statistics(owned.buffer).offered, 0);
}

TEST(wrong_labels_change_nothing) {
    const Owned owned;
    for (int64_t wrong : {int64_t{-1}, int64_t{CLASSES}, int64_t{1} << 32, std::numeric_limits<int64_t>::min()}) {
        const int64_t labels[] = {0, 1, 2, 0, wrong};
        const void *const columns[] = {labels, VALUES};
        CHECK_INVALID(rb_add(owned.buffer, 5, columns));
        CHECK_THAT(std::strstr(rb_error(), std::to_string(wrong).c_str()), rb_error());
        CHECK_EQUAL(statistics(owned.buffer).offered, 0);
        CHECK_EQUAL(statistics(owned.buffer).stored, 0);
    }
}

TEST(calls_out_of_turn) {
    const Owned owned;
    rb_buffer *b = owned.buffer;
    rb_records records{};
    records.size = sizeof records;
    CHECK_INVALID(rb_receive(b, &records));  // nothing was requested
    CHECK_INVALID(rb_request(b, uint64_t{1} << 32));
    const uint64_t stranger = uint64_t{3} << 52, nobody = 1;
    CHECK_INVALID(rb_update(b, 1, 1, &stranger, VALUES));  // of rank 3
    CHECK_INVALID(rb_update(b, 0, 1, &nobody, LABELS));    // a label
    CHECK_INVALID(rb_update(b, 2, 1, &nobody, VALUES));
    CHECK_EQUAL(rb_update(b, 1, 1, &nobody, VALUES), RB_OK);  // not stored
    CHECK_EQUAL(rb_add(b, 5, COLUMNS), RB_OK);
    CHECK_EQUAL(rb_request(b, 2), RB_OK);
    CHECK_EQUAL(rb_receive(b, &records), RB_OK);
    CHECK_EQUAL(rb_close(b), RB_OK);
    CHECK_EQUAL(rb_close(b), RB_OK);
    CHECK_INVALID(rb_add(b, 5, COLUMNS));
    CHECK_INVALID(rb_update(b, 1, 1, &nobody, VALUES));
    CHECK_INVALID(rb_request(b, 2));
    rb_records more = records;
    CHECK_INVALID(rb_receive(b, &more));
    rb_copy *copy;
    CHECK_INVALID(rb_take_copy(b, &copy));
    check_rows(records);  // still there
    rb_release(records.lease);
    const rb_stats stats = statistics(b);
    CHECK_EQUAL(stats.stored, 5);
    CHECK_EQUAL(stats.requests, 1);
    CHECK_EQUAL(stats.pending, 0);
}

TEST(messages_belong_to_their_thread) {
    rb_buffer *buffer = nullptr;
    CHECK_INVALID(rb_create(nullptr, &buffer));
    std::thread([] { CHECK_EQUAL(std::string(rb_error()), "no error"); }).join();
    CHECK(std::string(rb_error()) != "no error");
}

TEST(failed_calls_keep_the_memory_of_draws) {
    const Owned owned;
    rb_buffer *b = owned.buffer;
    CHECK_EQUAL(rb_add(b, 5, COLUMNS), RB_OK);
    CHECK_EQUAL(rb_request(b, 5), RB_OK);
    CHECK_EQUAL(rb_close(b), RB_OK);
    const uint64_t bytes = statistics(b).staging_bytes;
    for (int i = 0; i < 10; ++i) CHECK_INVALID(rb_request(b, 5));
    CHECK(statistics(b).staging_bytes <= bytes);
}

// Draws of one rank that are too large to be made in rb_request: requested in advance, received while more is added.
TEST(large_draws_of_one_rank) {
    constexpr uint64_t ROW = 40000, N = 64;  // more than RB_INLINE_BYTES
    CHECK(ROW * N > RB_INLINE_BYTES);
    const rb_field fields[] = {FIELDS[0], {sizeof(rb_field), "image", ROW}};
    rb_options o = options();
    o.capacity = 200;
    o.fields = fields;
    const Owned owned(o);
    std::vector<int64_t> labels(N);
    std::vector<unsigned char> images(N * ROW);
    unsigned char next = 0;
    uint64_t pending = 0, sequence = 0;
    for (int step = 0; step < 40 / SHORTER + 4; ++step) {
        for (uint64_t i = 0; i < N; ++i) std::memset(images.data() + i * ROW, next++, ROW);
        const void *const columns[] = {labels.data(), images.data()};
        CHECK_EQUAL(rb_add(owned.buffer, N, columns), RB_OK);
        for (; pending < 3; ++pending) CHECK_EQUAL(rb_request(owned.buffer, N), RB_OK);
        rb_records records{};
        records.size = sizeof records;
        CHECK_EQUAL(rb_receive(owned.buffer, &records), RB_OK);
        --pending;
        CHECK_EQUAL(records.count, N);
        CHECK_EQUAL(records.sequence, sequence++);
        const auto *rows = static_cast<const unsigned char *>(records.columns[1]);
        for (uint64_t i = 0; i < N; ++i) CHECK(std::memcmp(rows + i * ROW, rows + i * ROW + 1, ROW - 1) == 0);
        rb_release(records.lease);
    }
    CHECK(statistics(owned.buffer).thread_cpu_seconds > 0);
}

// ---- two ranks over UCX ---------------------------------------------------------------------------------------------

namespace {

void connect(const std::vector<rb_buffer *> &buffers) {
    std::vector<const void *> addresses(buffers.size());
    std::vector<size_t> lengths(buffers.size());
    for (size_t rank = 0; rank < buffers.size(); ++rank)
        CHECK_EQUAL(rb_address(buffers[rank], &addresses[rank], &lengths[rank]), RB_OK);
    for (rb_buffer *buffer : buffers)
        CHECK_THAT(rb_connect(buffer, addresses.data(), lengths.data()) == RB_OK, rb_error());
}

void in_threads(const std::vector<rb_buffer *> &buffers, const std::function<void(rb_buffer *)> &run) {
    std::vector<std::thread> threads;
    for (rb_buffer *buffer : buffers) threads.emplace_back(run, buffer);
    for (std::thread &thread : threads) thread.join();
}

}  // namespace

TEST(two_ranks_over_ucx) {
    if (!has_transport()) {
        rb_options o = options(0, 2);
        rb_buffer *buffer = nullptr;
        CHECK_INVALID(rb_create(&o, &buffer));
        std::printf("(SKIPPED: built without UCX) ");
        return;
    }
    constexpr int ROUNDS = SANITIZED ? 6 : 30;
    size_t descriptors = 0, memory = 0;
    for (int round = 0; round < ROUNDS; ++round) {
        const Owned one(options(0, 2)), two(options(1, 2));
        const std::vector<rb_buffer *> both{one.buffer, two.buffer};
        CHECK_INVALID(rb_request(one.buffer, 1));  // not connected
        const void *const addresses[] = {nullptr, nullptr};
        const size_t lengths[] = {1, 1};
        CHECK_INVALID(rb_connect(one.buffer, addresses, lengths));
        connect(both);
        in_threads(both, [](rb_buffer *buffer) {
            CHECK_EQUAL(rb_add(buffer, 5, COLUMNS), RB_OK);
            CHECK_EQUAL(rb_request(buffer, 100), RB_OK);
            rb_records records{};
            records.size = sizeof records;
            CHECK_THAT(rb_receive(buffer, &records) == RB_OK, rb_error());
            CHECK_EQUAL(records.count, 10);
            check_rows(records);
            rb_release(records.lease);
        });
        const void *address;
        size_t length;
        CHECK_EQUAL(rb_address(one.buffer, &address, &length), RB_OK);
        const void *const again[] = {address, address};
        const size_t lengths_again[] = {length, length};
        CHECK_INVALID(rb_connect(one.buffer, again, lengths_again));
        if (round % 2) in_threads(both, [](rb_buffer *buffer) { CHECK_THAT(rb_close(buffer) == RB_OK, rb_error()); });
        if (round == ROUNDS / 2) descriptors = open_descriptors(), memory = resident_bytes();
        if (round < ROUNDS - 1) continue;
        CHECK_EQUAL(open_descriptors(), descriptors);
        if (!SANITIZED)
            CHECK_THAT(resident_bytes() < memory + (size_t{8} << 20), memory << " grew to " << resident_bytes());
    }
}

// A buffer with nothing to do leaves the cores to others.
TEST(idle_ranks_sleep) {
    if (!has_transport()) {
        std::printf("(SKIPPED: built without UCX) ");
        return;
    }
    const Owned one(options(0, 2)), two(options(1, 2));
    const std::vector<rb_buffer *> both{one.buffer, two.buffer};
    connect(both);
    in_threads(both, [](rb_buffer *buffer) {
        CHECK_EQUAL(rb_add(buffer, 5, COLUMNS), RB_OK);
        for (int step = 0; step < 20; ++step) {
            CHECK_EQUAL(rb_request(buffer, 4), RB_OK);
            rb_records records{};
            records.size = sizeof records;
            CHECK_THAT(rb_receive(buffer, &records) == RB_OK, rb_error());
            rb_release(records.lease);
        }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // until the last messages are dealt with
    const double before[] = {statistics(one.buffer).thread_cpu_seconds, statistics(two.buffer).thread_cpu_seconds};
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    for (size_t rank = 0; rank < 2; ++rank) {
        const double used = statistics(both[rank]).thread_cpu_seconds - before[rank];
        CHECK_THAT(used < 0.05, used << " s of 0.5");
    }
    in_threads(both, [](rb_buffer *buffer) { CHECK_THAT(rb_close(buffer) == RB_OK, rb_error()); });
}

TEST(draws_that_nobody_receives_have_an_end) {
    rb_options o = options();
    rb_buffer *b;
    CHECK_EQUAL(rb_create(&o, &b), RB_OK);
    for (int i = 0; i < RB_MOST_PENDING; ++i) CHECK_EQUAL(rb_request(b, 0), RB_OK);
    CHECK_INVALID(rb_request(b, 0));
    rb_records records{};
    records.size = sizeof records;
    CHECK_EQUAL(rb_receive(b, &records), RB_OK);
    rb_release(records.lease);
    CHECK_EQUAL(rb_request(b, 0), RB_OK);
    rb_destroy(b);
    o = options();
    o.local = 2;
    CHECK_INVALID(rb_create(&o, &b));
}

RUN_TESTS
