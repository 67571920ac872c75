// Several ranks in one process, each a thread, over a transport that can be slow, unordered or silent.
#include <cmath>
#include <numeric>

#include "folder.h"
#include "local_transport.h"
#include "process.h"
#include "records.h"
#include "statistics.h"

using namespace replay;
using namespace replay::test;
using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {

std::vector<Options> all_options(uint32_t ranks, uint64_t capacity, const Policies &policies = POLICIES[0],
                                 const Shape &shape = {}) {
    std::vector<Options> all;
    for (uint32_t rank = 0; rank < ranks; ++rank) {
        Options one = options(rank, ranks, capacity, shape);
        policies.apply(one);
        all.push_back(one);
    }
    return all;
}

rb_stats statistics(const Buffer &buffer) {
    rb_stats stats{};
    buffer.statistics(stats);
    return stats;
}

void update(Buffer &buffer, const std::vector<uint64_t> &ids, const std::vector<uint64_t> &values) {
    buffer.update(VALUE, ids.size(), ids.data(), reinterpret_cast<const std::byte *>(values.data()));
}

// What each rank held when it made each request, written before it, so that others can read it once they have the draw.
class Ledger {
  public:
    Ledger(size_t ranks, size_t requests) : ranks_(ranks), stored_(ranks * requests) {}
    std::atomic<uint64_t> &at(size_t rank, size_t request) { return stored_.at(request * ranks_ + rank); }
    uint64_t everywhere(size_t request) {
        uint64_t sum = 0;
        for (size_t rank = 0; rank < ranks_; ++rank) sum += at(rank, request);
        return sum;
    }

  private:
    const size_t ranks_;
    std::vector<std::atomic<uint64_t>> stored_;
};

// Steps of a training: receive, update, add, request two draws, all of sizes that differ from rank to rank and are 0 at
// times. Gives a digest of everything received. With `from` > 0 the draws of the step before are pending.
uint64_t train(uint32_t rank, Buffer &buffer, Ledger &ledger, uint64_t from, uint64_t to, const Shape &shape = {},
               uint64_t most = 30) {
    uint64_t digest = 0;
    const auto size = [&](uint64_t request) {
        const uint64_t random = mixed(request * 5000 + rank);
        return random % 5 == 0 ? 0 : random / 5 % most;
    };
    for (uint64_t step = from; step < to; ++step) {
        std::vector<uint64_t> ids, values;
        for (uint64_t request = 2 * step - 2; step > 0 && request < 2 * step; ++request) {
            const Received draw(buffer, shape);
            CHECK_EQUAL(draw.sequence(), request);
            CHECK_EQUAL(draw.count(), std::min(size(request), ledger.everywhere(request)));
            digest = draw.digest(digest);
            for (uint64_t i = request % 2; i < draw.count(); i += 2) {
                ids.push_back(draw.id(i));
                values.push_back(draw.number(i) * VERSIONS + step % VERSIONS);
            }
        }
        if (step % 3) update(buffer, ids, values);
        add(buffer, numbers(rank, step * 8, mixed(step * 5000 + rank + 7) % 8), shape);
        const uint64_t stored = statistics(buffer).stored;
        for (uint64_t request = 2 * step; request < 2 * step + 2; ++request) {
            ledger.at(rank, request) = stored;
            buffer.request(size(request));
        }
    }
    return digest;
}

// All ranks do so; a digest of each.
std::vector<uint64_t> train_all(Job &job, Ledger &ledger, uint64_t from, uint64_t to, const Shape &shape = {},
                                uint64_t most = 30) {
    std::vector<uint64_t> digests(job.buffers.size());
    job.each(
        [&](uint32_t rank, Buffer &buffer) { digests[rank] = train(rank, buffer, ledger, from, to, shape, most); });
    return digests;
}

}  // namespace

// ---- contents -------------------------------------------------------------------------------------------------------

// Every record whole, none twice, as many as asked for or stored, whatever the ranks, policies and the network do.
TEST(draws_are_whole_and_complete) {
    for (uint32_t ranks : {2, 4, 16})
        for (const Policies &policies : POLICIES) {
            const uint64_t steps = std::max<uint64_t>(20, 600 / ranks / SHORTER);
            Job job(all_options(ranks, 40, policies), stormy(ranks, 300));
            Ledger ledger(ranks, 2 * steps);
            train_all(job, ledger, 0, steps);
            job.close();
        }
}

// Draws that take several messages or are read where they lie, and that are made by the buffer's own thread.
TEST(large_records) {
    const Shape shape{5, 60000};
    for (uint32_t ranks : {1, 3}) {
        std::vector<uint64_t> expected;
        for (bool one_host : {false, true}) {
            const uint64_t steps = 64 / SHORTER;
            Job job(all_options(ranks, 50, POLICIES[1], shape), stormy(1, 300), one_host);
            Ledger ledger(ranks, 2 * steps);
            const auto digests = train_all(job, ledger, 0, steps, shape, 60);
            if (!one_host) expected = digests;
            CHECK(digests == expected);
            job.close();
        }
    }
}

// Uniform over all ranks, however uneven, and draws of different ranks have nothing to do with each other.
TEST(chances_of_draws_at_16_ranks) {
    constexpr uint32_t RANKS = 16;
    constexpr uint64_t N = 12;
    const auto held = [](uint32_t rank) -> uint64_t { return rank % 5 == 0 ? 0 : rank == 1 ? 90 : rank; };
    const uint64_t draws = std::max(100, 600 / SHORTER);
    Job job(all_options(RANKS, 100));
    std::vector<uint64_t> all;
    for (uint32_t rank = 0; rank < RANKS; ++rank) {
        const auto mine = numbers(rank, 0, held(rank));
        all.insert(all.end(), mine.begin(), mine.end());
        add(*job.buffers[rank], mine);
    }
    std::vector<std::vector<uint64_t>> counts(RANKS, std::vector<uint64_t>(all.size()));
    job.each([&](uint32_t rank, Buffer &buffer) {
        for (uint64_t k = 0; k < draws; ++k) {
            buffer.request(N);
            const Received draw(buffer);
            CHECK_EQUAL(draw.count(), N);
            for (uint64_t number : draw.all_numbers())
                ++counts[rank][static_cast<size_t>(std::lower_bound(all.begin(), all.end(), number) - all.begin())];
        }
    });
    std::vector<uint64_t> sum(all.size());
    for (const auto &of_rank : counts) {
        for (size_t i = 0; i < all.size(); ++i) sum[i] += of_rank[i];
        const double p = equal_chance_p_value(of_rank, draws, N);
        CHECK_THAT(p > ERROR_RATE, "one rank, p " << p);
    }
    const double p = equal_chance_p_value(sum, draws * RANKS, N);
    CHECK_THAT(p > ERROR_RATE, "all ranks, p " << p);
    // A policy that favours small shards, as one that first chooses a rank does, would be found by this.
    std::vector<uint64_t> wrong = sum;
    for (size_t i = 0; i < all.size(); ++i)
        if (all[i] >> 32 != 1) wrong[i] += sum[i] / 5;
    CHECK(equal_chance_p_value(wrong, draws * RANKS, N) < ERROR_RATE);
    job.close();
}

TEST(class_that_lives_on_one_rank) {
    const Shape shape{7, 120};
    Job job(all_options(3, 400, {"reservoir", "class_balanced", {}}, shape));
    std::vector<uint64_t> of_class[2];  // of the classes 2 and 5, in number order
    for (uint64_t count = 0; of_class[0].size() < 5 || of_class[1].size() < 200; ++count) {
        const uint64_t rare = number_of(1, count), common = number_of(2, count);
        if (mixed(rare) % 7 == 2 && of_class[0].size() < 5) of_class[0].push_back(rare);
        if (mixed(common) % 7 == 5 && of_class[1].size() < 200) of_class[1].push_back(common);
    }
    add(*job.buffers[1], of_class[0]);
    add(*job.buffers[2], of_class[1]);
    const uint64_t draws = 2000 / SHORTER;
    std::atomic<uint64_t> rare{0}, all{0};
    job.each([&](uint32_t, Buffer &buffer) {
        for (uint64_t k = 0; k < draws; ++k) {
            buffer.request(2);
            const Received draw(buffer);
            CHECK_EQUAL(draw.count(), 2);
            for (uint64_t i = 0; i < 2; ++i) {
                const bool is_rare = draw.number(i) >> 32 == 1;
                rare += is_rare;
                ++all;
                CHECK(std::fabs(draw.weight(i) - 2 * (is_rare ? 5 : 200) / 205.0) < 1e-6);
            }
        }
    });
    const double p = multinomial_p_value({rare, all - rare}, {0.5, 0.5});
    CHECK_THAT(p > ERROR_RATE, rare << " of " << all << ", p " << p);
    job.close();
}

// ---- what a draw sees, and that it is always the same ---------------------------------------------------------------

// Draw k sees on every rank exactly what it had added when it made its request k, though ranks run ahead, add more and
// have several draws on their way.
TEST(draws_see_the_state_at_the_request) {
    constexpr uint32_t RANKS = 4;
    const uint64_t steps = std::max<uint64_t>(12, 60 / SHORTER);
    const auto added = [](uint32_t rank, uint64_t step) { return (rank + step) % 4; };
    Job job(all_options(RANKS, 1000), stormy(3, 1000));
    job.each([&](uint32_t rank, Buffer &buffer) {
        std::vector<uint64_t> before(RANKS);  // of each rank, records at the request that is received next
        uint64_t mine = 0, received = 0;
        const auto receive = [&] {
            std::set<uint64_t> expected;
            for (uint32_t other = 0; other < RANKS; ++other) {
                before[other] += added(other, received);
                for (uint64_t number : numbers(other, 0, before[other])) expected.insert(number);
            }
            CHECK(Received(buffer).all_numbers() == expected);
            ++received;
        };
        for (uint64_t step = 0; step < steps; ++step) {
            add(buffer, numbers(rank, mine, added(rank, step)));
            mine += added(rank, step);
            buffer.request(100000);
            if (step >= 2) receive();
        }
        while (received < steps) receive();
    });
    job.close();
}

TEST(equal_seeds_give_equal_draws) {
    for (uint32_t ranks : {1, 2, 4})
        for (const Policies &policies : POLICIES) {
            const uint64_t steps = std::max<uint64_t>(12, 40 / SHORTER);
            std::vector<uint64_t> expected;
            for (int repeat = 0; repeat < 4; ++repeat) {
                Job job(all_options(ranks, 30, policies),
                        repeat ? stormy(static_cast<uint64_t>(repeat), 100 << repeat) : Weather());
                Ledger ledger(ranks, 2 * steps);
                const auto digests = train_all(job, ledger, 0, steps);
                if (repeat == 0) expected = digests;
                CHECK(digests == expected);
                job.close();
            }
        }
}

// What rank 0 requested is on its way to rank 2 for long: ranks that are faster wait, and nothing gets mixed up.
TEST(one_slow_rank) {
    constexpr uint32_t RANKS = 3;
    const uint64_t steps = 12;
    std::vector<uint64_t> expected;
    for (bool slow : {false, true}) {
        Job job(all_options(RANKS, 30, POLICIES[1]), [slow](uint32_t from, uint32_t to, const Header &) {
            return from == 0 && to == 2 && slow ? Delay{milliseconds(2), milliseconds(10)} : Delay{};
        });
        Ledger ledger(RANKS, 2 * steps);
        const auto digests = train_all(job, ledger, 0, steps);
        if (!slow) expected = digests;
        CHECK(digests == expected);
        job.close();
    }
}

// ---- updates --------------------------------------------------------------------------------------------------------

namespace {

// Each rank adds records; the names of all.
std::vector<std::vector<uint64_t>> fill(Job &job, uint64_t each, const Shape &shape = {}) {
    const auto ranks = static_cast<uint32_t>(job.buffers.size());
    std::vector<std::vector<uint64_t>> names(ranks, std::vector<uint64_t>(each));
    job.each([&](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, each), shape);
        buffer.request(1000);
        const Received draw(buffer, shape);
        CHECK_EQUAL(draw.count(), each * ranks);
        if (rank == 0)
            for (uint64_t i = 0; i < draw.count(); ++i)
                names[draw.number(i) >> 32][draw.number(i) & 0xffffffff] = draw.id(i);
    });
    return names;
}

// versions[rank][record] in a draw of everything.
std::vector<std::vector<uint64_t>> versions(const Received &draw, uint32_t ranks, uint64_t each) {
    std::vector<std::vector<uint64_t>> result(ranks, std::vector<uint64_t>(each));
    CHECK_EQUAL(draw.count(), ranks * each);
    for (uint64_t i = 0; i < draw.count(); ++i)
        result[draw.number(i) >> 32][draw.number(i) & 0xffffffff] = draw.version(i);
    return result;
}

}  // namespace

TEST(updates_reach_all_ranks) {
    constexpr uint32_t RANKS = 5;
    constexpr uint64_t EACH = 6;
    Job job(all_options(RANKS, EACH), stormy(5, 500));
    const auto names = fill(job, EACH);
    job.each([&](uint32_t rank, Buffer &buffer) {
        for (uint64_t step = 1; step < 30; ++step) {
            // Record i of each rank belongs to rank i % RANKS in this test; each step changes some.
            std::vector<uint64_t> ids, values;
            for (uint32_t owner = 0; owner < RANKS; ++owner)
                for (uint64_t i = rank; i < EACH; i += RANKS) {
                    ids.push_back(names[owner][i]);
                    values.push_back(number_of(owner, i) * VERSIONS + step);
                }
            buffer.request(100000);  // made before the update, which it must not see
            update(buffer, ids, values);
            buffer.request(100000);
            for (uint64_t expected : {step - 1, step})
                for (const auto &of_owner : versions(Received(buffer), RANKS, EACH))
                    for (uint64_t version : of_owner) CHECK_EQUAL(version, expected);
        }
    });
    job.close();
}

// Of several updates of one record between two draws, that of the highest rank stays, and of these the latest.
TEST(the_update_of_the_highest_rank_stays) {
    constexpr uint32_t RANKS = 3;
    for (uint64_t seed = 0; seed < 4; ++seed) {
        Job job(all_options(RANKS, RANKS * 4), seed ? stormy(seed, 1000) : Weather());
        const auto names = fill(job, 8);
        job.each([&](uint32_t rank, Buffer &buffer) {
            // Bit r of i: rank r updates record i of every rank; twice, with 10 * rank + 1 and then + 2.
            for (uint64_t time : {1, 2}) {
                std::vector<uint64_t> ids, values;
                for (uint32_t owner = 0; owner < RANKS; ++owner)
                    for (uint64_t i = 0; i < 8; ++i)
                        if (i >> rank & 1) {
                            ids.push_back(names[owner][i]);
                            values.push_back(number_of(owner, i) * VERSIONS + 10 * rank + time);
                        }
                update(buffer, ids, values);
            }
            buffer.request(100000);
            const auto seen = versions(Received(buffer), RANKS, 8);
            for (uint32_t owner = 0; owner < RANKS; ++owner)
                for (uint64_t i = 0; i < 8; ++i) {
                    const uint64_t expected = i & 4 ? 22 : i & 2 ? 12 : i & 1 ? 2 : 0;
                    CHECK_THAT(seen[owner][i] == expected, "record " << i << " of rank " << owner << " has version "
                                                                     << seen[owner][i] << ", not " << expected);
                }
        });
        job.close();
    }
}

// A record that gave way to another is passed over.
TEST(updates_of_records_that_are_gone) {
    Job job(all_options(2, 5), stormy(2, 300));
    const auto names = fill(job, 5);
    job.each([&](uint32_t rank, Buffer &buffer) {
        for (uint64_t step = 1; step < 40; ++step) {
            add(buffer, numbers(rank, step * 10, 10));
            std::vector<uint64_t> ids, values;
            for (uint32_t owner = 0; owner < 2; ++owner)
                for (uint64_t i = 0; i < 5; ++i) {
                    ids.push_back(names[owner][i]);
                    values.push_back(number_of(owner, i) * VERSIONS + 1);
                }
            update(buffer, ids, values);
            buffer.request(10);
            const Received draw(buffer);  // which finds a value that is not its record's
            for (uint64_t i = 0; i < draw.count(); ++i) CHECK_EQUAL(draw.version(i), (draw.number(i) & 0xffffffff) < 5);
        }
    });
    job.close();
}

// A later update comes before an earlier one: each draw waits for the updates that it is to see.
TEST(updates_that_overtake_each_other) {
    Job job(all_options(2, 4), [](uint32_t from, uint32_t to, const Header &header) {
        const bool first = from == 0 && to == 1 && header.kind == Kind::update && header.sequence == 1;
        return Delay{microseconds(0), first ? milliseconds(50) : milliseconds(0)};
    });
    const auto names = fill(job, 4);
    job.each([&](uint32_t rank, Buffer &buffer) {
        for (uint64_t version = 1; version < 4; ++version) {
            if (rank == 0)  // which has nothing to wait for, since it draws nothing
                update(buffer, {names[1][0], names[1][version]},
                       {number_of(1, 0) * VERSIONS + version, number_of(1, version) * VERSIONS + 1});
            buffer.request(rank == 0 ? 0 : 100000);
        }
        for (uint64_t version = 1; version < 4; ++version) {
            const Received draw(buffer);
            if (rank == 0) continue;
            const auto seen = versions(draw, 2, 4)[1];
            CHECK_EQUAL(seen[0], version);
            for (uint64_t i = 1; i < 4; ++i) CHECK_EQUAL(seen[i], i <= version);
        }
    });
    job.close();
}

// An update waits until the draws before it have left the shard, in messages or by being read there.
TEST(updates_do_not_reach_draws_that_are_being_sent) {
    const Shape shape{7, 40000};
    for (Kind late : {Kind::records, Kind::places, Kind::taken}) {
        const auto weather = [late](uint32_t from, uint32_t, const Header &header) {
            const bool of_shard_1 = from == (header.kind == Kind::taken ? 0 : 1);
            const milliseconds delay(header.kind == late && of_shard_1 ? 50 : 0);
            return late == Kind::records ? Delay{delay, microseconds(0)} : Delay{microseconds(0), delay};
        };
        Job job(all_options(2, 4, POLICIES[0], shape), weather, late != Kind::records);
        const auto names = fill(job, 4, shape);
        job.each([&](uint32_t rank, Buffer &buffer) {
            buffer.request(1000);
            if (rank == 0) update(buffer, {names[1][2]}, {number_of(1, 2) * VERSIONS + 1});
            buffer.request(1000);
            for (uint64_t version : {0, 1}) CHECK_EQUAL(versions(Received(buffer, shape), 2, 4)[1][2], version);
        });
        job.close();
    }
}

// ---- ranks that end -------------------------------------------------------------------------------------------------

// A rank that has no more to do closes, and goes on serving what it stores.
TEST(uneven_finish) {
    constexpr uint32_t RANKS = 4;
    for (const Policies &policies : POLICIES) {
        const uint64_t steps = std::max<uint64_t>(20, 100 / SHORTER);
        Job job(all_options(RANKS, 20, policies), stormy(8, 300));
        std::atomic<uint64_t> closed{0};
        job.each([&](uint32_t rank, Buffer &buffer) {
            const uint64_t mine = rank == 0 ? 3 : rank == 1 ? 7 : rank == 2 ? steps : steps + 1;
            std::set<uint64_t> late;  // records of rank 0, in draws after it had finished
            for (uint64_t step = 0; step < mine; ++step) {
                add(buffer, numbers(rank, step * 30, 30));
                buffer.request(rank == 0 || step % 3 ? 10 : 100000);
                const Received draw(buffer);
                if (rank == 0 || step % 3) CHECK_EQUAL(draw.count(), 10);
                if (step < 8 || step % 3) continue;
                std::vector<uint64_t> of_rank(RANKS);
                for (uint64_t number : draw.all_numbers()) ++of_rank[number >> 32];
                for (uint32_t other = 0; other < RANKS; ++other)
                    CHECK_THAT(of_rank[other] > 0, "nothing of rank " << other << " in a draw of " << draw.count());
            }
            if (rank == 1) add(buffer, numbers(rank, 9000, 50));  // seen by no draw of its own, but by the others'
            buffer.close();
            ++closed;
            buffer.close();  // once more does nothing
            CHECK_FAILS(buffer.request(1), RB_INVALID, "closed");
            CHECK_FAILS(add(buffer, numbers(rank, 0, 1)), RB_INVALID, "closed");
            CHECK(statistics(buffer).stored > 0);
        });
        CHECK_EQUAL(closed, RANKS);
    }
}

// Those that never asked for anything are asked all the same.
TEST(a_rank_that_only_stores) {
    Job job(all_options(2, 50, POLICIES[1]), stormy(1, 300));
    job.each([&](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, 40));
        for (int step = 0; rank == 0 && step < 20; ++step) {
            buffer.request(1000);
            const auto seen = Received(buffer).all_numbers();
            CHECK(seen.lower_bound(number_of(1, 0)) != seen.end());
        }
        buffer.close();
    });
}

// Others have asked for several draws before a rank says that it makes none.
TEST(closing_after_others_have_gone_ahead) {
    for (uint32_t ranks : {2, 3, 8}) {
        Job job(all_options(ranks, 50));
        job.each([&](uint32_t rank, Buffer &buffer) {
            add(buffer, numbers(rank, 0, 20));
            if (rank == 0) std::this_thread::sleep_for(milliseconds(20));
            for (int i = 0; rank && i < 4; ++i) buffer.request(10);
            for (int i = 0; rank && i < 4; ++i) CHECK_EQUAL(Received(buffer).count(), 10u);
            buffer.close();
        });
    }
}

// However far apart ranks end, with however many draws on their way: the same draws in all weathers.
TEST(uneven_finish_with_draws_on_their_way) {
    for (uint64_t seed = 1; seed < 4; ++seed)
        for (uint32_t ranks : {2u, 3u, 8u}) {
            std::vector<uint64_t> expected;
            for (uint64_t repeat = 0; repeat < 3; ++repeat) {
                const auto weather = repeat ? stormy(seed * 10 + repeat, 1000) : Weather();
                Job job(all_options(ranks, 40, POLICIES[seed % 3]), weather);
                std::vector<uint64_t> digests(ranks);
                job.each([&](uint32_t rank, Buffer &buffer) {
                    const uint64_t mine = mixed(seed * 77 + rank) % 12, ahead = 1 + mixed(seed * 99 + rank) % 4;
                    for (uint64_t k = 0; k < mine; ++k) {
                        add(buffer, numbers(rank, k * 8, mixed(k * 50 + rank) % 8));
                        for (uint64_t j = 0; j < ahead; ++j) buffer.request(mixed(k * 31 + rank + j) % 20);
                        const bool last = k + 1 == mine;  // one of these stays on its way
                        for (uint64_t j = last; j < ahead; ++j) {
                            const Received draw(buffer);
                            digests[rank] = draw.digest(digests[rank]);
                            if (draw.count()) update(buffer, {draw.id(0)}, {draw.number(0) * VERSIONS + k + 1});
                        }
                    }
                    buffer.close();
                });
                if (repeat == 0) expected = digests;
                CHECK(digests == expected);
            }
        }
}

// Draws that nobody receives may arrive at any time.
TEST(closing_with_draws_on_their_way) {
    for (uint64_t seed = 0; seed < 200 / SHORTER; ++seed) {
        Job job(all_options(3, 50), stormy(seed, 300));
        job.each([&](uint32_t rank, Buffer &buffer) {
            add(buffer, numbers(rank, 0, 10));
            for (int i = 0; i < 5; ++i) buffer.request(10);
            buffer.close();
        });
    }
    // The same where they are read in the other's memory, and much later.
    const Shape shape{7, 8000};
    for (int round = 0; round < 6; ++round) {
        const auto weather = [round](uint32_t from, uint32_t, const Header &header) {
            const bool slow = header.kind == Kind::records || header.kind == Kind::places || header.kind == Kind::taken;
            const auto late = milliseconds(from == 1 && slow ? 30 : 0);
            return round % 3 == 0   ? Delay{}
                   : round % 3 == 1 ? Delay{late, microseconds(0)}
                                    : Delay{microseconds(0), late};
        };
        Job job(all_options(2, 50, POLICIES[0], shape), weather, round >= 3);
        job.each([&](uint32_t rank, Buffer &buffer) {
            add(buffer, numbers(rank, 0, 40), shape);
            for (int i = 0; i < 3; ++i) buffer.request(30);
            buffer.close();
        });
    }
}

// What was received stays after the buffer is gone.
TEST(draws_outlive_the_buffer) {
    std::vector<void *> leases(2);
    std::vector<const void *> values(2);
    {
        Job job(all_options(2, 50));
        job.each([&](uint32_t rank, Buffer &buffer) {
            add(buffer, numbers(rank, 0, 40));
            buffer.request(30);
            rb_records records{};
            buffer.receive(records);
            leases[rank] = records.lease;
            values[rank] = records.columns[VALUE];
        });
        job.close();
    }
    for (size_t rank = 0; rank < 2; ++rank) {
        for (size_t i = 0; i < 30; ++i) CHECK_EQUAL(static_cast<const uint64_t *>(values[rank])[i] % VERSIONS, 0);
        Staging::release(leases[rank]);
    }
}

namespace {

std::vector<Options> hasty(uint32_t ranks, double timeout = 0.5) {
    auto all = all_options(ranks, 50);
    for (Options &one : all) one.timeout_seconds = timeout;
    return all;
}

// So that all ranks have heard of each other.
void draw_once(Job &job) {
    job.each([](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, 20));
        buffer.request(10);
        Received{buffer};
    });
}

// That a call fails because of one rank, within a second and a half.
void check_lost(Buffer &buffer, uint32_t rank, const std::function<void()> &call, double at_most = 1.5) {
    const auto started = std::chrono::steady_clock::now();
    CHECK_FAILS(call(), RB_PEER, "rank " + std::to_string(rank));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
    CHECK_THAT(took.count() < at_most * (SANITIZED ? 4 : 2), took.count() << " s");
    // A lost peer is final.
    CHECK_FAILS(buffer.request(1), RB_PEER, "rank " + std::to_string(rank));
    CHECK_FAILS(add(buffer, {1}), RB_PEER, "rank " + std::to_string(rank));
    CHECK_FAILS(Received{buffer}, RB_PEER, "rank " + std::to_string(rank));
    CHECK_FAILS(buffer.close(), RB_PEER, "rank " + std::to_string(rank));
    CHECK_FAILS(buffer.copy(), RB_PEER, "rank " + std::to_string(rank));
}

}  // namespace

// Also by ranks that neither send to it nor hear from it while a draw is announced, as among 13.
constexpr uint32_t FEW_AND_MANY[] = {3, 13};

TEST(a_rank_that_does_not_ask_is_named) {
    for (uint32_t ranks : FEW_AND_MANY) {
        Job job(hasty(ranks));
        job.each([&](uint32_t rank, Buffer &buffer) {
            add(buffer, numbers(rank, 0, 20));
            buffer.request(10);
            Received{buffer};
            if (rank == ranks - 1) return;
            buffer.request(10);
            if (rank == 1) check_lost(buffer, ranks - 1, [&] { add(buffer, {1}); });
            else check_lost(buffer, ranks - 1, [&] { Received{buffer}; });
        });
    }
}

namespace {

std::string failure(const std::function<void()> &call) {
    try {
        call();
    } catch (const Error &error) {
        CHECK_EQUAL(error.status, RB_PEER);
        return error.what();
    }
    return "";
}

void check_has(const std::string &text, const std::string &part) {
    CHECK_THAT(text.find(part) != std::string::npos, "'" << text << "' has no '" << part << "'");
}

}  // namespace

// Rank 2 hangs, rank 1 waits for it elsewhere and rank 0 for both: rank 1 is not to blame, and hears who is.
TEST(a_rank_that_waits_itself_is_not_blamed) {
    Job job(hasty(3, SANITIZED ? 2 : 0.5));
    draw_once(job);
    job.network.silence(2);
    std::string said;
    job.each([&](uint32_t rank, Buffer &buffer) {
        if (rank != 0) return;
        buffer.request(10);
        said = failure([&] { Received{buffer}; });
    });
    check_has(said, " s for draw 1: rank 2 has been silent for ");
    check_has(said, "; rank 1 answers and has not asked for it");
    std::string told;  // rank 1 was not in the buffer when rank 0 gave up
    for (int i = 0; i < 1000 && told.empty(); ++i) {
        std::this_thread::sleep_for(milliseconds(1));
        told = failure([&] { add(*job.buffers[1], {1}); });
    }
    CHECK_EQUAL(told, said + " (rank 0 found that, and gave up)");
}

namespace {

// What rank 0 of some ranks says if messages for which `lost` holds do not come.
std::string said_without(uint32_t ranks, const Shape &shape, const std::function<bool(uint32_t, uint32_t, Kind)> &lost,
                         const std::function<void(uint32_t, Buffer &)> &run) {
    auto all = hasty(ranks, SANITIZED ? 2 : 0.5);
    for (Options &one : all) one.fields = fields(shape);
    const auto weather = [&](uint32_t from, uint32_t to, const Header &header) {
        return Delay{microseconds(0), std::chrono::seconds(lost(from, to, header.kind) ? 1000 : 0)};
    };
    Job job(all, weather, true);
    std::string said;
    job.each([&](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, 4), shape);
        if (rank == 0) said = failure([&] { run(rank, buffer); });
        else failure([&] { run(rank, buffer); });
    });
    return said;
}

}  // namespace

// Those who hold up what a rank waits for are named, and nobody else.
TEST(who_is_to_blame) {
    const Shape large{7, 40000};
    const auto add_more = [](Buffer &buffer, const Shape &shape) { add(buffer, numbers(0, 4, 1), shape); };
    check_has(
        said_without(
            4, large, [](uint32_t from, uint32_t to, Kind kind) { return from == 1 && to == 0 && kind == Kind::taken; },
            [&](uint32_t rank, Buffer &buffer) {
                buffer.request(16);
                Received{buffer, large};
                if (rank == 0) add_more(buffer, large);
            }),
        "for messages to be sent: rank 1 answers and has not taken its records");
    check_has(said_without(
                  3, large,
                  [](uint32_t from, uint32_t to, Kind kind) {
                      return to == 0 && kind == (from == 1 ? Kind::taken : Kind::places);
                  },
                  [&](uint32_t, Buffer &buffer) {
                      buffer.request(12);
                      Received{buffer, large};
                  }),
              "for draw 0: rank 2 answers and has not sent its records");
    // Draw 0 lacks records of rank 2, but it is draw 1 that `add` waits for, and rank 1 has not asked for it.
    check_has(
        said_without(
            3, {}, [](uint32_t from, uint32_t to, Kind kind) { return from == 2 && to == 0 && kind == Kind::records; },
            [&](uint32_t rank, Buffer &buffer) {
                for (int i = 0; i < (rank == 1 ? 1 : 2); ++i) buffer.request(12);
                if (rank == 0) add_more(buffer, {});
            }),
        "for draw 1: rank 1 answers and has not asked for it");
}

// Rank 0 waits for draw 1, for which rank 1 cannot ask: it waits for its records of draw 0 from rank 2, which is gone.
TEST(who_is_to_blame_behind_a_rank_that_waits) {
    auto all = hasty(3, SANITIZED ? 2 : 0.5);
    all[1].timeout_seconds *= 2;
    Job job(all, [](uint32_t from, uint32_t to, const Header &header) {
        const bool lost = from == 2 && to == 1 && header.kind == Kind::records;
        return Delay{microseconds(0), std::chrono::seconds(lost ? 1000 : 0)};
    });
    job.each([&](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, 4));
        buffer.request(12);
        if (rank == 2) {
            buffer.request(12);
            std::this_thread::sleep_for(milliseconds(50));
            return job.network.silence(2);
        }
        if (rank == 0) {
            Received{buffer};
            buffer.request(12);
        }
        const std::string said = failure([&] { Received{buffer}; });
        check_has(said, "rank 2 has been silent for ");
        CHECK_THAT(said.find("rank 1 answers") == std::string::npos, said);
    });
}

// What a rank says must not lead to memory that is not there, or take any amount of it.
TEST(rows_and_draws_that_cannot_be_are_refused) {
    const auto said_to_0 = [](const std::function<void(Job &, Buffer &)> &run) {
        Job job(hasty(2, 20));
        return failure([&] { run(job, *job.buffers[0]); });
    };
    check_has(said_to_0([](Job &job, Buffer &buffer) {
                  buffer.request(4000000000u);  // there is room for as many rows as there can be records
                  const uint32_t row = 300000000;
                  const uint64_t id = RecordId::make(1, 3, 3);
                  const auto message = records_message({TOKEN, Kind::records, 1, 0, 1}, &row, &id);
                  std::vector<std::byte> body = message->owned;
                  for (const FieldInfo &field : fields({})) body.resize(body.size() + field.row_bytes);
                  job.network.slip_in(0, message->header, body);
                  Received{buffer};
              }),
              "rank 1 sent row 300000000 of a draw of 100");
    for (bool closing : {false, true})
        check_has(said_to_0([closing](Job &job, Buffer &buffer) {
                      if (!closing) buffer.request(1);
                      job.network.slip_in(0, header_message({TOKEN, Kind::changes, 1, uint64_t{1} << 60, 0})->header);
                      if (closing) std::this_thread::sleep_for(milliseconds(20)), buffer.close();
                      else Received{buffer};
                  }),
                  "spoke of draw 1152921504606846976, expected at most");
}

TEST(a_rank_that_fails_says_why) {
    Job job(all_options(3, 50));
    draw_once(job);
    job.network.slip_in(0, header_message({TOKEN, Kind::taken, 2, 0})->header);  // nothing was offered
    job.each([&](uint32_t rank, Buffer &buffer) {
        const std::string said = failure([&] {
            while (true) {
                buffer.request(10);
                Received{buffer};
            }
        });
        CHECK_EQUAL(said, std::string("rank 2 took records that were not offered") +
                              (rank == 0 ? "" : " (rank 0 found that, and gave up)"));
    });
}

// ---- strangers ------------------------------------------------------------------------------------------------------

TEST(messages_of_strangers_are_dropped_and_counted) {
    Job job(all_options(2, 50));
    const auto slip_in = [&](const Header &header, std::vector<std::byte> body = {}) {
        job.network.slip_in(0, header_message(header)->header, std::move(body));
    };
    uint64_t strange = 0;
    for (uint32_t kind = 0; kind < 12; ++kind)
        for (uint64_t sequence : {0, 0, 1, 1000})  // one of them would be asked for twice
            for (size_t wrong : {0, 15}) {
                Header header{TOKEN, static_cast<Kind>(kind), 1, sequence, 3};
                header.token[wrong] ^= 1;
                slip_in(header, std::vector<std::byte>(kind == 1 ? 64 : 0));
                ++strange;
            }
    for (uint32_t source : {0u, 2u, UINT32_MAX}) {
        slip_in({TOKEN, Kind::changes, source, 0, 0});
        ++strange;
    }
    for (size_t bytes : {0, 8, 16, 48, 63, 65, 1000}) {
        job.network.slip_in(0, std::vector<std::byte>(bytes, std::byte{1}));
        ++strange;
    }
    job.each([&](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, 20));
        for (int i = 0; i < 20; ++i) {
            buffer.request(10);
            CHECK_EQUAL(Received(buffer).count(), 10u);
        }
    });
    CHECK_EQUAL(statistics(*job.buffers[0]).messages_refused, strange);
    CHECK_EQUAL(statistics(*job.buffers[1]).messages_refused, 0);
    slip_in({TOKEN, Kind::changes, 1, 0, 0});  // a rank that says this is broken
    job.each([&](uint32_t, Buffer &buffer) {
        check_has(failure([&] {
                      while (true) {
                          buffer.request(10);
                          Received{buffer};
                      }
                  }),
                  "rank 1 spoke of draw 0 twice");
    });
}

TEST(a_timeout_tells_of_dropped_messages) {
    auto all = hasty(2);
    all[1].token[3] = 0;  // the ranks do not agree
    Job job(all);
    job.each([&](uint32_t rank, Buffer &buffer) {
        if (rank == 1) buffer.request(1);
        if (rank == 0) {
            std::this_thread::sleep_for(milliseconds(20));
            buffer.request(1);
            check_has(failure([&] { Received{buffer}; }), "messages were dropped, because they came from no rank");
        }
    });
}

TEST(a_rank_that_falls_silent_is_named) {
    for (uint32_t ranks : FEW_AND_MANY) {
        Job job(hasty(ranks));
        draw_once(job);
        job.network.silence(ranks - 1);
        job.each([&](uint32_t rank, Buffer &buffer) {
            buffer.request(10);
            if (rank < ranks - 1) check_lost(buffer, ranks - 1, [&] { Received{buffer}; });
        });
    }
}

// Its request came, its records do not.
TEST(a_rank_that_does_not_deliver_is_named) {
    Job job(hasty(3), [](uint32_t from, uint32_t to, const Header &header) {
        return Delay{microseconds(0),
                     std::chrono::seconds(from == 2 && to < 2 && header.kind == Kind::records ? 1000 : 0)};
    });
    job.each([&](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, 20));
        buffer.request(60);
        if (rank < 2) check_lost(buffer, 2, [&] { Received{buffer}; });
    });
}

TEST(a_rank_that_dies_is_named) {
    for (uint32_t ranks : FEW_AND_MANY) {
        Job job(hasty(ranks, 20));
        draw_once(job);
        job.each([&](uint32_t rank, Buffer &buffer) {
            const auto step = [&] { buffer.request(10), Received{buffer}; };
            if (rank < ranks - 1) return check_lost(buffer, ranks - 1, [&] { step(), step(); });
            buffer.request(10);
            job.buffers[ranks - 1].reset();  // it may have delivered this draw, but not the next
        });
    }
}

TEST(a_rank_that_is_silent_at_the_end_is_named) {
    for (uint32_t ranks : FEW_AND_MANY) {
        Job job(hasty(ranks));
        draw_once(job);
        job.network.silence(ranks - 1);
        job.each([&](uint32_t rank, Buffer &buffer) {
            if (rank < ranks - 1) check_lost(buffer, ranks - 1, [&] { buffer.close(); }, 2.5);
        });
    }
}

// Its update is noted by nobody: it is not to blame that it does not announce its draw.
TEST(a_rank_that_does_not_note_an_update_is_named) {
    Job job(hasty(4, SANITIZED ? 2 : 0.5));
    const auto names = fill(job, 4);
    job.network.silence(3);
    job.each([&](uint32_t rank, Buffer &buffer) {
        if (rank == 3) return;
        if (rank == 0) update(buffer, {names[3][0]}, {number_of(3, 0) * VERSIONS + 1});
        buffer.request(10);
        const std::string said = failure([&] { Received{buffer}; });
        check_has(said, "rank 3 has been silent for ");
        CHECK_THAT(said.find("has not asked") == std::string::npos, said);
    });
}

// A rank that computes for longer than the timeout is alive: its buffer answers.
TEST(a_rank_that_is_busy_is_waited_for_at_the_end) {
    for (bool all_quiet : {false, true}) {
        if (SANITIZED && !all_quiet) continue;  // takes long
        Job job(hasty(2, SANITIZED ? 2 : 0.5));
        job.each([&](uint32_t rank, Buffer &buffer) {
            add(buffer, numbers(rank, 0, 20));
            buffer.request(10);
            Received{buffer};
            const auto longer = std::chrono::duration<double>(SANITIZED ? 2.5 : 0.8);
            if (all_quiet) std::this_thread::sleep_for(longer);  // nobody has heard of the other for long
            if (rank == 1) std::this_thread::sleep_for(longer);
            buffer.close();
        });
    }
}

TEST(calls_before_the_connection_are_refused) {
    Network network(2);
    Buffer buffer(all_options(2, 10)[0], network.transports());
    CHECK_FAILS(buffer.request(1), RB_INVALID, "not connected");
    CHECK_FAILS(add(buffer, {1}), RB_INVALID, "not connected");
    CHECK_FAILS(Received{buffer}, RB_INVALID, "not connected");
    buffer.close();
}

// ---- files ----------------------------------------------------------------------------------------------------------

namespace {

std::vector<std::string> save(Job &job, const Folder &folder) {
    std::vector<std::string> paths;
    for (size_t rank = 0; rank < job.buffers.size(); ++rank) paths.push_back(folder / ("shard" + std::to_string(rank)));
    job.each([&](uint32_t rank, Buffer &buffer) { write_saved(paths[rank], buffer.copy()); });
    return paths;
}

}  // namespace

TEST(loaded_on_as_many_ranks_all_goes_on_to_the_bit) {
    const Folder folder;
    for (uint32_t ranks : {2, 4})
        for (const Policies &policies : POLICIES) {
            const uint64_t half = std::max<uint64_t>(10, 30 / SHORTER);
            Job job(all_options(ranks, 30, policies), stormy(1, 300)),
                again(all_options(ranks, 30, policies), stormy(2, 300));
            Ledger ledger(ranks, 4 * half);
            train_all(job, ledger, 0, half);
            std::vector<Saved> copies(ranks);
            job.each([&](uint32_t rank, Buffer &buffer) { copies[rank] = buffer.copy(); });
            // Written while the ranks go on.
            std::vector<std::string> paths;
            for (uint32_t rank = 0; rank < ranks; ++rank) paths.push_back(folder / ("copy" + std::to_string(rank)));
            std::thread writer([&] {
                for (uint32_t rank = 0; rank < ranks; ++rank) write_saved(paths[rank], copies[rank]);
            });
            const auto expected = train_all(job, ledger, half, 2 * half);
            writer.join();
            again.each([&](uint32_t, Buffer &buffer) {
                CHECK(buffer.load(paths).empty());
                CHECK_EQUAL(statistics(buffer).pending, 2);
            });
            CHECK(train_all(again, ledger, half, 2 * half) == expected);
            job.close();
            again.close();
        }
}

// Updates are in the files, also those that are on their way still, whether a draw is to see them yet or not.
TEST(updates_are_saved) {
    const Folder folder;
    constexpr uint32_t RANKS = 3;
    for (bool requested : {false, true}) {
        Job job(all_options(RANKS, 8), stormy(1, 2000)), again(all_options(RANKS, 8)), fewer(all_options(2, 12));
        const auto names = fill(job, 8);
        job.each([&](uint32_t rank, Buffer &buffer) {
            for (uint64_t time : {1, 2}) {  // each rank those from its own number on
                std::vector<uint64_t> ids, values;
                for (uint32_t owner = 0; owner < RANKS; ++owner)
                    for (uint64_t i = rank; i < 8; ++i) {
                        ids.push_back(names[owner][i]);
                        values.push_back(number_of(owner, i) * VERSIONS + 10 * rank + time);
                    }
                update(buffer, ids, values);
            }
            if (requested) buffer.request(0);
        });
        const auto paths = save(job, folder);
        again.each([&](uint32_t, Buffer &buffer) { CHECK(buffer.load(paths).empty()); });
        fewer.each([&](uint32_t, Buffer &buffer) {
            for (uint64_t n : buffer.load(paths)) buffer.request(n);
        });
        for (Job *each : {&job, &again, &fewer}) {
            each->each([&](uint32_t, Buffer &buffer) {
                if (requested) CHECK_EQUAL(Received(buffer).count(), 0);
                buffer.request(1000);
                const auto seen = versions(Received(buffer), RANKS, 8);
                for (uint32_t owner = 0; owner < RANKS; ++owner)
                    for (uint64_t i = 0; i < 8; ++i) {
                        const uint64_t expected = 10 * std::min<uint64_t>(i, 2) + 2;
                        CHECK_THAT(seen[owner][i] == expected, (each == &job ? "saved" : "loaded")
                                                                   << ": record " << i << " of rank " << owner
                                                                   << " has version " << seen[owner][i]);
                    }
            });
            each->close();
        }
    }
}

TEST(loaded_on_other_ranks_every_record_is_there_once) {
    const Folder folder;
    for (const Policies &policies : POLICIES)
        for (uint32_t from : {1, 2, 3, 4})
            for (uint32_t to : {1, 2, 3, 4}) {
                if (from == to) continue;
                const Shape shape{3, 120};
                Job job(all_options(from, 120 / from, policies, shape)),
                    other(all_options(to, 120 / to, policies, shape), stormy(1, 300));
                std::set<uint64_t> expected;
                std::vector<uint64_t> names;
                job.each([&](uint32_t rank, Buffer &buffer) {
                    for (uint64_t step = 0; step < 5; ++step)
                        add(buffer, numbers(rank, step * 50, 11 * rank + 3), shape);
                    buffer.request(100000);
                    const Received draw(buffer, shape);
                    update(buffer, {draw.id(rank)}, {draw.number(rank) * VERSIONS + 1});
                    if (rank == 0) expected = draw.all_numbers();
                    buffer.request(7 + rank);
                    buffer.request(9);
                });
                const auto paths = save(job, folder);
                job.close();
                std::vector<uint64_t> stored(to);
                other.each([&](uint32_t rank, Buffer &buffer) {
                    const auto sizes = buffer.load(paths);
                    CHECK(sizes == (std::vector<uint64_t>{7, 9}));
                    stored[rank] = statistics(buffer).stored;
                    CHECK_EQUAL(statistics(buffer).pending, 0);
                    for (uint64_t n : sizes) buffer.request(n);
                    for (uint64_t n : sizes) {
                        const Received draw(buffer, shape);
                        CHECK_EQUAL(draw.count(), n);
                    }
                    buffer.request(100000);
                    CHECK(Received(buffer, shape).all_numbers() == expected);
                    // And it can be used like any other.
                    for (uint64_t step = 0; step < 10; ++step) {
                        add(buffer, numbers(rank + 100, step * 20, 11), shape);
                        CHECK(statistics(buffer).stored <= 120 / to);
                        buffer.request(20);
                        CHECK_EQUAL(Received(buffer, shape).count(), 20);
                    }
                });
                const auto [least, most] = std::minmax_element(stored.begin(), stored.end());
                CHECK(*most - *least <= 1);
                other.close();
            }
}

// Shards that saw different classes, put together: each class gets its equal share of the whole.
TEST(quotas_are_kept_after_loading_on_other_ranks) {
    const Folder folder;
    const Shape shape{2, 16};
    constexpr uint64_t CAPACITY = 20;
    std::vector<uint64_t> of_class[2];
    for (uint64_t count = 0; of_class[0].size() < 500 || of_class[1].size() < 500; ++count)
        of_class[mixed(number_of(0, count)) % 2].push_back(number_of(0, count));
    const auto part = [&](int label, size_t first, size_t n) {
        const auto begin = of_class[label].begin() + static_cast<ptrdiff_t>(first);
        return std::vector<uint64_t>(begin, begin + static_cast<ptrdiff_t>(n));
    };
    Job job(all_options(2, CAPACITY / 2, POLICIES[1], shape));
    add(*job.buffers[0], part(0, 0, 100), shape);    // 10 of class 0
    add(*job.buffers[1], part(0, 100, 100), shape);  // 5 of class 0
    add(*job.buffers[1], part(1, 0, 100), shape);    // 5 of class 1
    const auto paths = save(job, folder);
    Job one(all_options(1, CAPACITY, POLICIES[1], shape));
    Buffer &buffer = *one.buffers[0];
    buffer.load(paths);
    for (size_t step = 0; step < 10; ++step) {
        add(buffer, part(0, 200 + step * 10, 10), shape);
        add(buffer, part(1, 200 + step * 10, 10), shape);
    }
    buffer.request(100000);
    const Received draw(buffer, shape);
    CHECK_EQUAL(draw.count(), CAPACITY);
    const auto ones = std::accumulate(draw.column<int64_t>(Y), draw.column<int64_t>(Y) + CAPACITY, int64_t{0});
    CHECK_EQUAL(ones, 10);
    job.close();
}

TEST(loading_comes_before_the_first_draw) {
    const Folder folder;
    Job job(all_options(2, 10));
    fill(job, 5);
    const auto paths = save(job, folder);
    job.each([&](uint32_t, Buffer &buffer) {
        CHECK_FAILS(buffer.load(paths), RB_INVALID, "before its first draw");
        CHECK_FAILS(buffer.load({paths[1], paths[0]}), RB_INVALID, "");
    });
    Job other(all_options(2, 10));
    other.each([&](uint32_t, Buffer &buffer) { CHECK_FAILS(buffer.load({paths[1], paths[0]}), RB_INVALID, "rank"); });
    Job smaller(all_options(1, 9));
    CHECK_FAILS(smaller.buffers[0]->load(paths), RB_INVALID, "capacity is 9");
    CHECK_EQUAL(statistics(*smaller.buffers[0]).stored, 0);
    job.close();
    other.close();
}

// ---- what it costs --------------------------------------------------------------------------------------------------

// A message per round of the dissemination for each draw, and records for each rank at most; what comes back is what
// was asked for, whatever the number of ranks.
TEST(messages_and_bytes_of_a_draw) {
    constexpr uint64_t DRAWS = 50, N = 16;
    for (uint64_t ranks : {2, 8, 64}) {
        const uint64_t rounds = ranks == 2 ? 1 : ranks == 8 ? 3 : 6;
        Job job(all_options(static_cast<uint32_t>(ranks), 50));
        job.each([&](uint32_t rank, Buffer &buffer) {
            add(buffer, numbers(rank, 0, 50));
            for (uint64_t k = 0; k < DRAWS; ++k) {
                buffer.request(N);
                CHECK_EQUAL(Received(buffer).count(), N);
            }
        });
        job.close();
        uint64_t row_bytes = 0, bytes = 0, messages = 0, most_messages = 0;
        for (const FieldInfo &field : fields({})) row_bytes += field.row_bytes;
        for (const auto &buffer : job.buffers) {
            const rb_stats stats = statistics(*buffer);
            bytes += stats.bytes_sent;
            const uint64_t at_the_end = 2 * rounds;  // to finish, and to part
            CHECK(stats.messages_sent >= rounds * DRAWS);
            most_messages = std::max(most_messages, stats.messages_sent - at_the_end);
            messages += stats.messages_sent - at_the_end;
        }
        // A draw of N has records of N ranks at most; what a rank sends, others have drawn.
        CHECK_THAT(messages <= (rounds + std::min(N, ranks - 1)) * DRAWS * ranks, messages << " of " << ranks);
        CHECK(most_messages <= (rounds + ranks - 1) * DRAWS);
        const uint64_t each = bytes / ranks / DRAWS, overhead = (rounds + N) * sizeof(Header),
                       most = N * (row_bytes + 16) + overhead;
        CHECK_THAT(each < most, each << " bytes for each draw and rank, expected " << most);
    }
}

TEST(idle_threads_sleep) {
    Job job(all_options(3, 50));
    fill(job, 20);
    std::this_thread::sleep_for(milliseconds(20));
    std::vector<double> before;
    for (const auto &buffer : job.buffers) before.push_back(statistics(*buffer).thread_cpu_seconds);
    std::this_thread::sleep_for(milliseconds(200));
    for (size_t rank = 0; rank < 3; ++rank)
        CHECK(statistics(*job.buffers[rank]).thread_cpu_seconds - before[rank] < 0.02);
    job.close();
}

// ---- what is left behind --------------------------------------------------------------------------------------------

TEST(nothing_is_left_of_300_jobs) {
    size_t descriptors = 0, threads = 0, memory = 0;
    const int rounds = SANITIZED ? 60 : 300;
    for (int round = 0; round < rounds; ++round) {
        const uint32_t ranks = 1 + static_cast<uint32_t>(round % 3);
        Job job(all_options(ranks, 200, POLICIES[round % 3], {5, 4000}));
        Ledger ledger(ranks, 6);
        train_all(job, ledger, 0, 3, {5, 4000}, 200);
        if (round % 5) job.close();  // else the draws that were not received are dropped
        job.buffers.clear();
        if (round == rounds / 3) {
            descriptors = open_descriptors();
            threads = entries("/proc/self/task");
            memory = resident_bytes();
        }
    }
    CHECK_EQUAL(open_descriptors(), descriptors);
    CHECK(entries("/proc/self/task") <= threads);
    // Sanitizers keep what was freed for a while; they find leaks themselves.
    if (!SANITIZED)
        CHECK_THAT(resident_bytes() < memory + (size_t{8} << 20), memory << " grew to " << resident_bytes());
}

RUN_TESTS
