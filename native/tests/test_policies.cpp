// Policies that the library does not know, each from one file beside it (tests/policies/): what docs/replay_buffer.md
// says about adding one is all it takes.
#include <array>
#include <cmath>

#include "folder.h"
#include "local_transport.h"
#include "records.h"
#include "statistics.h"

using namespace replay;
using namespace replay::test;

namespace {

const Policies OURS{"fifo", "tempered", {{"power", 0.5}}};

Options with_ours(uint32_t rank, uint32_t ranks, uint64_t capacity) {
    Options o = options(rank, ranks, capacity);
    OURS.apply(o);
    return o;
}

}  // namespace

TEST(new_policies_are_known_by_name) {
    CHECK_EQUAL(std::string(rb_insertion_policy(2)), "fifo");
    CHECK_EQUAL(std::string(rb_sampling_policy(1)), "tempered");
    check_policies("fifo", "tempered", {{"power", 1}});
    CHECK_FAILS(check_policies("fifo", "tempered", {}), RB_INVALID, "needs the option power");
    CHECK_FAILS(check_policies("fifo", "uniform", {{"power", 1}}), RB_INVALID, "has no option power, got 1");
}

TEST(first_in_first_out) {
    Buffer buffer(with_ours(0, 1, 10), nullptr);
    for (uint64_t step = 0; step < 20; ++step) {
        add(buffer, numbers(0, 7 * step, 7));
        buffer.request(10);
        const uint64_t offered = 7 * (step + 1), first = offered - std::min<uint64_t>(10, offered);
        const auto expected = numbers(0, first, offered - first);
        CHECK(Received(buffer).all_numbers() == std::set<uint64_t>(expected.begin(), expected.end()));
    }
}

// Chances of the classes in a draw of one follow from the formula.
TEST(tempered_chances) {
    constexpr uint64_t DRAWS = 20000;
    const std::array<uint64_t, 3> counts{1, 16, 81};
    for (double power : {0.0, 0.5, 1.0}) {
        const PolicyOptions options{{"power", power}};
        const auto policy = SamplingPolicy::registry().find("tempered").make({options});
        Census census(2, 3);
        for (uint32_t label = 0; label < 3; ++label) census.set_class(label % 2, label, counts[label]);
        census.stored.set(0, 82);
        census.stored.set(1, 16);
        double all = 0;
        for (uint64_t count : counts) all += std::pow(static_cast<double>(count), power);
        std::array<uint64_t, 3> hits{};
        for (uint64_t sequence = 0; sequence < DRAWS; ++sequence) {
            const Pick pick = policy->draw(census, Stream(5, 0, Purpose::draw), sequence, 1).at(0);
            const auto count = static_cast<double>(counts[pick.label]);
            CHECK_EQUAL(pick.rank, pick.label % 2);
            CHECK(std::abs(pick.weight - std::pow(count, 1 - power) * all / 98) < 1e-4);
            ++hits[pick.label];
        }
        for (uint32_t label = 0; label < 3; ++label) {
            const double p = std::pow(static_cast<double>(counts[label]), power) / all;
            const double deviation = std::sqrt(DRAWS * p * (1 - p));
            CHECK(std::abs(static_cast<double>(hits[label]) - DRAWS * p) <
                  5 * deviation);  // by chance 1 in 1.7 million
        }
        std::set<std::pair<uint32_t, uint64_t>> seen;
        for (const Pick &pick : policy->draw(census, Stream(5, 0, Purpose::draw), 0, 1000))
            CHECK(seen.emplace(pick.label, pick.position).second);
        CHECK_EQUAL(seen.size(), 98u);
    }
}

TEST(over_ranks_and_through_files) {
    const Folder folder;
    std::vector<Options> all;
    for (uint32_t rank = 0; rank < 3; ++rank) all.push_back(with_ours(rank, 3, 12));
    Job job(all, stormy(3, 200)), again(all);
    const auto step = [](uint32_t rank, Buffer &buffer, uint64_t number) {
        add(buffer, numbers(rank, 5 * number, 5));
        buffer.request(6);
        return Received(buffer).digest(0);
    };
    job.each([&](uint32_t rank, Buffer &buffer) {
        for (uint64_t number = 0; number < 20; ++number) step(rank, buffer, number);
        write_saved(folder / std::to_string(rank), buffer.copy());
    });
    again.each([&](uint32_t, Buffer &buffer) { buffer.load({folder / "0", folder / "1", folder / "2"}); });
    std::array<std::vector<uint64_t>, 3> first, second;
    job.each([&](uint32_t rank, Buffer &buffer) {
        for (uint64_t number = 20; number < 30; ++number) first[rank].push_back(step(rank, buffer, number));
    });
    again.each([&](uint32_t rank, Buffer &buffer) {
        for (uint64_t number = 20; number < 30; ++number) second[rank].push_back(step(rank, buffer, number));
    });
    CHECK(first == second);
    job.close();
    again.close();
}

RUN_TESTS
