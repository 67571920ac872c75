// The parts that need no buffer around them: random numbers, lists of slots, insertion and sampling policies, memory of
// draws.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "../src/error.h"
#include "../src/heap.h"
#include "../src/insertion.h"
#include "../src/mapping.h"
#include "../src/sampling.h"
#include "../src/staging.h"
#include "check.h"
#include "statistics.h"

using namespace replay;
using namespace replay::test;

// ---- random numbers -------------------------------------------------------------------------------------------------

// The known answers that the authors of Philox publish with Random123 (kat_vectors).
TEST(philox_gives_the_published_numbers) {
    const struct {
        std::array<uint32_t, 4> counter;
        uint64_t key;
        std::array<uint32_t, 4> answer;
    } vectors[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         0xffffffffffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (const auto &vector : vectors) CHECK(philox(vector.counter, vector.key) == vector.answer);
}

TEST(streams_of_ranks_purposes_and_places_are_different) {
    std::set<uint64_t> numbers;
    for (uint64_t seed : {0, 1})
        for (uint32_t rank : {0, 1, 4095})
            for (Purpose purpose : {Purpose::insertion, Purpose::draw})
                for (uint64_t place : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 40})
                    for (uint32_t i = 0; i < 5; ++i) numbers.insert(Stream(seed, rank, purpose).bits(place, i));
    CHECK_EQUAL(numbers.size(), 2 * 3 * 2 * 3 * 5);
}

TEST(numbers_of_a_place_are_those_of_its_stream) {
    const Stream stream(5, 3, Purpose::draw);
    Numbers numbers(stream, uint64_t{7} << 33);
    for (uint32_t i = 0; i < 100; ++i)
        CHECK_EQUAL(numbers.below(1000 + i), stream.below(1000 + i, uint64_t{7} << 33, i));
}

TEST(a_tally_finds_what_a_list_has) {
    std::mt19937_64 random(3);
    for (uint32_t ranks : {1, 2, 3, 7, 8, 100}) {
        Tally tally(ranks);
        std::vector<uint64_t> counts(ranks);
        for (int change = 0; change < 200; ++change) {
            const auto rank = static_cast<uint32_t>(random() % ranks);
            tally.set(rank, counts[rank] = random() % 4 ? random() % 9 : 0);
            uint64_t position = 0;
            for (uint32_t one = 0; one < ranks; ++one) {
                CHECK_EQUAL(tally.on(one), counts[one]);
                CHECK_EQUAL(tally.before(one), position);
                for (uint64_t i = 0; i < counts[one]; ++i, ++position) {
                    const Tally::Place place = tally.find(position);
                    CHECK(place.rank == one && place.position == i);
                }
            }
            CHECK_EQUAL(tally.total(), position);
        }
    }
}

TEST(below_is_uniform) {
    const Stream stream(7, 0, Purpose::draw);
    for (uint64_t bound : {1, 2, 7, 100}) {
        std::vector<uint64_t> counts(bound);
        for (uint32_t i = 0; i < 100000; ++i) {
            const uint64_t number = stream.below(bound, 3, i);
            CHECK(number < bound);
            ++counts[number];
        }
        const double p = multinomial_p_value(counts, std::vector<double>(bound, 1.0 / static_cast<double>(bound)));
        CHECK_THAT(p > ERROR_RATE, "bound " << bound << ", p " << p);
    }
}

// The statistics themselves, against tables.
TEST(tail_of_chi_square) {
    const struct {
        double x, freedom, tail;
    } known[] = {{3.841459, 1, 0.05},      {18.307038, 10, 0.05}, {10.827566, 1, 0.001},
                 {149.449253, 100, 0.001}, {4.605170, 2, 0.1},    {9.341818, 10, 0.5}};
    for (const auto &k : known) {
        const double tail = chi_square_tail(k.x, k.freedom);
        CHECK_THAT(std::fabs(tail - k.tail) < 1e-6, k.x << " with " << k.freedom << " degrees: " << tail);
    }
}

// ---- slots and heap -------------------------------------------------------------------------------------------------

TEST(slots_are_listed_without_gaps) {
    constexpr uint64_t CAPACITY = 40;
    constexpr uint32_t CLASSES = 5;
    Slots slots(CAPACITY, CLASSES), again(CAPACITY, CLASSES);
    std::map<Slot, uint32_t> expected;  // label of each slot in use
    std::mt19937 random(1);
    for (int step = 0; step < 5000; ++step) {
        const auto slot = static_cast<Slot>(random() % CAPACITY);
        const uint32_t label = random() % CLASSES, choice = random() % 2;
        for (Slots *each : {&slots, &again}) {
            if (!expected.count(slot)) each->insert(slot, label);
            else if (choice) each->erase(slot);
            else each->relabel(slot, label);
        }
        if (expected.count(slot) && choice) expected.erase(slot);
        else expected[slot] = label;

        CHECK_EQUAL(slots.stored().size(), expected.size());
        CHECK_EQUAL(std::set<Slot>(slots.stored().begin(), slots.stored().end()).size(), expected.size());
        size_t in_classes = 0;
        for (uint32_t c = 0; c < CLASSES; ++c) {
            in_classes += slots.of_class(c).size();
            for (Slot member : slots.of_class(c)) {
                CHECK(expected.count(member));
                CHECK_EQUAL(expected[member], c);
                CHECK_EQUAL(slots.label(member), c);
            }
        }
        CHECK_EQUAL(in_classes, expected.size());
        if (step % 500 == 499) {  // lists that were saved go on like those that were not
            Slots loaded(CAPACITY, CLASSES);
            loaded.restore(slots.stored(), slots.members());
            slots = std::move(loaded);
        }
        CHECK(slots.stored() == again.stored());  // a function of the calls
        CHECK(slots.members() == again.members());
    }
}

TEST(heap_gives_the_lowest_key_first) {
    std::vector<uint64_t> keys(200);
    std::mt19937 random(2);
    KeyHeap heap;
    std::set<std::pair<uint64_t, Slot>> expected;
    std::vector<Slot> unused(keys.size());
    std::iota(unused.begin(), unused.end(), 0);
    for (int step = 0; step < 5000; ++step) {
        if (!unused.empty() && (expected.empty() || random() % 2)) {
            const Slot slot = unused.back();
            unused.pop_back();
            keys[slot] = random() % 20;  // many are equal
            heap.push(slot, keys);
            expected.insert({keys[slot], slot});
        } else {
            CHECK_EQUAL(heap.lowest(), expected.begin()->second);
            CHECK_EQUAL(heap.pop(keys), expected.begin()->second);
            unused.push_back(expected.begin()->second);
            std::shuffle(unused.begin(), unused.end(), random);
            expected.erase(expected.begin());
        }
        CHECK_EQUAL(heap.size(), expected.size());
    }
}

// ---- insertion ------------------------------------------------------------------------------------------------------

// A shard of numbers: record i of the stream is i.
std::unique_ptr<InsertionPolicy> make_insertion(const std::string &name, uint64_t capacity, uint32_t classes,
                                                uint32_t candidates, Stream stream) {
    const PolicyOptions options{{"candidates", candidates}};
    return InsertionPolicy::registry().find(name).make({capacity, classes, stream, options});
}

struct Stored {
    Stored(const std::string &policy, uint64_t capacity, uint32_t classes, uint32_t candidates, uint64_t seed)
        : insertion(make_insertion(policy, capacity, classes, candidates, Stream(seed, 0, Purpose::insertion))),
          numbers(capacity) {}

    void offer(const std::vector<int64_t> &labels) {
        const uint64_t first = insertion->offered();
        placed.clear();
        insertion->offer(labels.data(), static_cast<uint32_t>(labels.size()), placed);
        for (const Placed &p : placed) {
            CHECK(p.slot < numbers.size());
            CHECK(p.row < labels.size());
            numbers[p.slot] = first + p.row;
        }
    }

    std::unique_ptr<InsertionPolicy> insertion;
    std::vector<uint64_t> numbers;
    std::vector<Placed> placed;
};

struct Shape {
    uint64_t capacity;
    uint32_t classes;
};
const Shape SHAPES[] = {{1, 1}, {1, 3}, {7, 3}, {12, 4}, {100, 7}, {5, 20}};

// Runs `check` after each batch: of one record at first, then of any size.
void offer_streams(
    const std::string &policy, uint32_t candidates,
    const std::function<void(const Stored &, const Shape &, const std::vector<std::vector<uint64_t>> &)> &check) {
    for (const Shape &shape : SHAPES) {
        if (policy == "candidates" && shape.capacity < shape.classes) continue;
        for (int sorted = 0; sorted < 2; ++sorted) {
            Stored shard(policy, shape.capacity, shape.classes, candidates, 3);
            std::mt19937 random(4);
            std::vector<std::vector<uint64_t>> seen(shape.classes);  // numbers offered of each class
            std::vector<int64_t> labels_of_all;
            for (int batch = 0; batch < 300; ++batch) {
                std::vector<int64_t> labels(batch < 150 ? 1 : random() % 9);
                for (int64_t &label : labels) {
                    const auto latest = static_cast<uint32_t>(batch) * shape.classes / 300;  // one class after another
                    label = sorted ? latest : random() % shape.classes;
                    seen[label].push_back(labels_of_all.size());
                    labels_of_all.push_back(label);
                }
                shard.offer(labels);
                CHECK_EQUAL(shard.insertion->offered(), labels_of_all.size());
                const Slots &slots = shard.insertion->slots();
                std::set<uint64_t> stored;
                for (Slot slot : slots.stored()) {
                    stored.insert(shard.numbers[slot]);
                    CHECK_EQUAL(labels_of_all[shard.numbers[slot]], slots.label(slot));
                }
                CHECK_EQUAL(stored.size(), slots.stored().size());  // no record twice
                CHECK(stored.size() <= shape.capacity);
                check(shard, shape, seen);
            }
        }
    }
}

TEST(reservoir_is_full_after_as_many_offers) {
    offer_streams("reservoir", 0, [](const Stored &shard, const Shape &shape, const auto &) {
        CHECK_EQUAL(shard.insertion->slots().stored().size(), std::min(shape.capacity, shard.insertion->offered()));
    });
}

// All is stored while there is room; then a class of which something was left out is as large as any, to one record.
TEST(class_balanced_fills_the_memory_evenly) {
    offer_streams("class_balanced", 0, [](const Stored &shard, const Shape &shape, const auto &seen) {
        const Slots &slots = shard.insertion->slots();
        CHECK_EQUAL(slots.stored().size(), std::min(shape.capacity, shard.insertion->offered()));
        uint64_t most = 0;
        for (uint32_t label = 0; label < shape.classes; ++label)
            most = std::max<uint64_t>(most, slots.of_class(label).size());
        for (uint32_t label = 0; label < shape.classes; ++label) {
            const uint64_t stored = slots.of_class(label).size();
            CHECK(stored == seen[label].size() || (stored < seen[label].size() && stored + 1 >= most));
        }
    });
}

TEST(class_balanced_gives_way_only_where_there_is_no_room) {
    Stored shard("class_balanced", 10, 2, 0, 0);
    shard.offer(std::vector<int64_t>(100, 0));
    shard.offer({1});
    CHECK_EQUAL(shard.insertion->slots().of_class(0).size(), 9u);
    CHECK_EQUAL(shard.insertion->slots().of_class(1).size(), 1u);
}

TEST(candidates_keep_a_fixed_quota) {
    for (uint32_t candidates : {1, 3, 100})
        offer_streams("candidates", candidates, [](const Stored &shard, const Shape &shape, const auto &seen) {
            for (uint32_t label = 0; label < shape.classes; ++label)
                CHECK_EQUAL(shard.insertion->slots().of_class(label).size(),
                            std::min<uint64_t>(shape.capacity / shape.classes, seen[label].size()));
        });
}

// After records were dealt out to another number of ranks a class may exceed its part; it gives way, but no further.
TEST(adopted_records_give_way_to_the_quotas) {
    for (const std::string policy : {"class_balanced", "candidates"}) {
        constexpr uint64_t CAPACITY = 10;
        Stored shard(policy, CAPACITY, 2, policy == "candidates" ? 1 : 0, 4);
        Slot slot;
        for (uint64_t key = 0; key < CAPACITY; ++key) CHECK(shard.insertion->adopt(0, key, slot));
        CHECK(!shard.insertion->adopt(0, CAPACITY, slot));
        for (int batch = 0; batch < 8; ++batch) shard.offer({1});
        CHECK_EQUAL(shard.insertion->slots().of_class(0).size(), CAPACITY / 2);
        CHECK_EQUAL(shard.insertion->slots().of_class(1).size(), CAPACITY / 2);
    }
}

TEST(insertion_refuses_what_makes_no_sense) {
    const Stream stream(0, 0, Purpose::insertion);
    CHECK_FAILS(make_insertion("lifo", 10, 2, 0, stream), RB_INVALID, "lifo does not exist; valid: candidates");
    CHECK_FAILS(make_insertion("candidates", 10, 11, 1, stream), RB_INVALID, "11 classes");
}

// Each set of `capacity` of the records offered is equally likely to be the one that is kept.
TEST(reservoir_law) {
    for (int batch : {1, 7, 60}) {
        constexpr uint64_t OFFERED = 60, CAPACITY = 17;
        const uint64_t trials = 20000 / SHORTER;
        std::vector<uint64_t> counts(OFFERED);
        for (uint64_t seed = 0; seed < trials; ++seed) {
            Stored shard("reservoir", CAPACITY, 1, 0, seed);
            for (uint64_t left = OFFERED; left > 0;) {
                const uint64_t n = std::min<uint64_t>(left, static_cast<uint64_t>(batch));
                shard.offer(std::vector<int64_t>(n));
                left -= n;
            }
            for (Slot slot : shard.insertion->slots().stored()) ++counts[shard.numbers[slot]];
        }
        const double p = equal_chance_p_value(counts, trials, CAPACITY);
        CHECK_THAT(p > ERROR_RATE, "batches of " << batch << ", p " << p);
    }
}

// The same within each class, though classes appear late and in unequal numbers and their parts shrink.
TEST(class_balanced_law) {
    std::vector<int64_t> labels;
    for (int i = 0; i < 120; ++i) labels.push_back(i < 40 ? 0 : i < 70 ? i % 2 : i % 4 == 3 ? 2 : i % 2);
    constexpr uint64_t CAPACITY = 20;
    const uint64_t trials = 20000 / SHORTER;
    std::vector<uint64_t> counts(labels.size());
    std::vector<uint64_t> kept(3);
    for (uint64_t seed = 0; seed < trials; ++seed) {
        Stored shard("class_balanced", CAPACITY, 3, 0, seed);
        for (size_t first = 0; first < labels.size(); first += 8)
            shard.offer({labels.begin() + static_cast<ptrdiff_t>(first),
                         labels.begin() + static_cast<ptrdiff_t>(std::min(first + 8, labels.size()))});
        for (Slot slot : shard.insertion->slots().stored()) ++counts[shard.numbers[slot]];
        for (uint32_t label = 0; label < 3; ++label) kept[label] = shard.insertion->slots().of_class(label).size();
    }
    for (uint32_t label = 0; label < 3; ++label) {
        std::vector<uint64_t> of_class;
        for (size_t i = 0; i < labels.size(); ++i)
            if (labels[i] == label) of_class.push_back(counts[i]);
        const double p = equal_chance_p_value(of_class, trials, static_cast<double>(kept[label]));
        CHECK_THAT(p > ERROR_RATE, "class " << label << ", p " << p);
    }
}

// Once a class is full, c of a batch of b replace a record on average, and each slot of the class is equally likely.
TEST(candidates_law) {
    for (uint32_t candidates : {1, 5, 14}) {
        constexpr uint32_t QUOTA = 10, CLASSES = 2, BATCH = 14;
        Stored shard("candidates", QUOTA * CLASSES, CLASSES, candidates, 5);
        shard.offer(std::vector<int64_t>(QUOTA, 0));
        shard.offer(std::vector<int64_t>(QUOTA, 1));
        const int batches = 20000 / SHORTER;
        std::vector<uint64_t> slots(QUOTA * CLASSES), rows(BATCH);
        for (int batch = 0; batch < batches; ++batch) {
            std::vector<int64_t> labels(BATCH);
            for (uint32_t i = 0; i < BATCH; ++i) labels[i] = i % 2;
            shard.offer(labels);
            for (const Placed &placed : shard.placed) {
                CHECK_EQUAL(shard.insertion->slots().label(placed.slot), placed.row % 2);
                ++slots[placed.slot];
                ++rows[placed.row];
            }
        }
        const double share = std::min(1.0, static_cast<double>(candidates) / BATCH);
        const double p_slots =
            multinomial_p_value(slots, std::vector<double>(slots.size(), 1.0 / static_cast<double>(slots.size())));
        CHECK_THAT(p_slots > ERROR_RATE, candidates << " candidates, slots, p " << p_slots);
        double sum = 0;  // each row is a coin of its own
        for (uint64_t count : rows) {
            const double off = static_cast<double>(count) - batches * share;
            if (share == 1) CHECK_EQUAL(off, 0);
            if (share < 1) sum += off * off / (batches * share * (1 - share));
        }
        CHECK_THAT(share == 1 || chi_square_tail(sum, BATCH) > ERROR_RATE,
                   candidates << " candidates, rows, chi-square " << sum);
    }
}

// ---- draws ----------------------------------------------------------------------------------------------------------

// counts[rank][class]
Census census_of(const std::vector<std::vector<uint64_t>> &counts) {
    Census census(static_cast<uint32_t>(counts.size()), static_cast<uint32_t>(counts[0].size()));
    for (uint32_t rank = 0; rank < census.ranks; ++rank) {
        for (uint32_t label = 0; label < census.num_classes; ++label)
            census.set_class(rank, label, counts[rank][label]);
        census.stored.set(rank, std::accumulate(counts[rank].begin(), counts[rank].end(), uint64_t{0}));
    }
    return census;
}

// Empty shards, one of 5 among hundreds, a class on one rank alone, a class that nobody has.
const std::vector<std::vector<std::vector<uint64_t>>> WORLDS = {
    {{1}},
    {{10, 3, 0, 1}},
    {{0, 0, 0, 0}, {5, 0, 0, 0}, {400, 40, 0, 60}},
    {{0, 0, 0, 0}, {2, 1, 0, 2}, {30, 0, 0, 0}, {0, 0, 0, 0}, {0, 25, 0, 0}},
};

// The sampling policies by name, each with memory of its own as in a buffer.
class Samplers {
  public:
    const std::vector<Pick> &draw(const std::string &name, const Census &census, const Stream &stream,
                                  uint64_t sequence, uint64_t n) {
        auto &policy = made_[name];
        if (!policy) policy = SamplingPolicy::registry().find(name).make({{}});
        return policy->draw(census, stream, sequence, n);
    }

  private:
    std::map<std::string, std::unique_ptr<SamplingPolicy>> made_;
};

// Number of a picked record among all: by rank, class and place. Under `uniform` by rank and place.
uint64_t number_of(const Census &census, const Pick &pick) {
    uint64_t number = 0;
    for (uint32_t rank = 0; rank < pick.rank; ++rank) number += census.stored.on(rank);
    if (pick.label == ANY_CLASS) {
        CHECK(pick.position < census.stored.on(pick.rank));
        return number + pick.position;
    }
    for (uint32_t label = 0; label < pick.label; ++label) number += census.class_on(pick.rank, label);
    CHECK(pick.position < census.class_on(pick.rank, pick.label));
    return number + pick.position;
}

TEST(draws_have_the_right_number_of_different_records) {
    Samplers sampling;
    for (const auto &world : WORLDS) {
        const Census census = census_of(world);
        const uint64_t stored = census.total();
        for (const std::string policy : {"uniform", "class_balanced"})
            for (uint64_t n :
                 {uint64_t{0}, uint64_t{1}, stored / 2, stored - 1, stored, stored + 1, 10 * stored, uint64_t{1} << 40})
                for (uint64_t sequence = 0; sequence < 5; ++sequence) {
                    std::set<uint64_t> numbers;
                    for (const Pick &pick : sampling.draw(policy, census, Stream(1, 2, Purpose::draw), sequence, n))
                        numbers.insert(number_of(census, pick));
                    CHECK_EQUAL(numbers.size(), std::min(n, stored));
                    CHECK_EQUAL(sampling.draw(policy, census, Stream(1, 2, Purpose::draw), sequence, n).size(),
                                numbers.size());
                }
    }
    const Census empty(3, 2);
    for (const std::string policy : {"uniform", "class_balanced"})
        CHECK(sampling.draw(policy, empty, Stream(1, 0, Purpose::draw), 0, 5).empty());
}

// Draws that need not be computed on a rank have no pick there; and of most others that is known.
TEST(draws_without_a_pick_on_a_rank_are_known) {
    auto worlds = WORLDS;
    worlds.emplace_back(50, std::vector<uint64_t>{8, 3, 0, 9});
    for (const std::string policy : {"uniform", "class_balanced"}) {
        const auto sampling = SamplingPolicy::registry().find(policy).make({{}});
        uint64_t without = 0, known = 0;
        for (const auto &world : worlds) {
            const Census census = census_of(world);
            for (uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{16}, census.total() / 2, census.total()})
                for (uint64_t sequence = 0; sequence < 100; ++sequence) {
                    const Stream stream(8, 1, Purpose::draw);
                    std::vector<uint64_t> picks(census.ranks);
                    for (const Pick &pick : sampling->draw(census, stream, sequence, n)) ++picks[pick.rank];
                    for (uint32_t rank = 0; rank < census.ranks; ++rank) {
                        const bool may = sampling->may_pick(census, stream, sequence, n, rank);
                        CHECK(may || picks[rank] == 0);
                        if (n > 16) continue;
                        without += picks[rank] == 0;
                        known += !may;
                    }
                }
        }
        CHECK_THAT(known > 0.99 * static_cast<double>(without), policy << ": " << known << " of " << without);
    }
}

TEST(draws_of_ranks_and_sequences_differ) {
    Samplers sampling;
    const Census census = census_of({{500, 500}});
    std::set<std::vector<uint64_t>> draws;
    for (uint32_t rank = 0; rank < 4; ++rank)
        for (uint64_t sequence = 0; sequence < 50; ++sequence) {
            std::vector<uint64_t> numbers;
            for (const Pick &pick : sampling.draw("uniform", census, Stream(9, rank, Purpose::draw), sequence, 20))
                numbers.push_back(number_of(census, pick));
            draws.insert(numbers);
        }
    CHECK_EQUAL(draws.size(), 200);
}

// probabilities[i][c]: that pick i of a draw by class is of class c, over all ways in which classes can be used up.
std::vector<std::vector<double>> class_chances(const Census &census, uint64_t n) {
    std::map<std::vector<uint64_t>, double> states{{census.of_class, 1.0}};
    std::vector<std::vector<double>> chances(n, std::vector<double>(census.num_classes));
    for (auto &chance : chances) {
        std::map<std::vector<uint64_t>, double> next;
        for (const auto &[left, probability] : states) {
            const auto used_up = static_cast<uint64_t>(std::count(left.begin(), left.end(), 0));
            for (uint32_t label = 0; label < census.num_classes; ++label) {
                if (!left[label]) continue;
                const double p = probability / static_cast<double>(census.num_classes - used_up);
                chance[label] += p;
                auto after = left;
                --after[label];
                next[after] += p;
            }
        }
        states = std::move(next);
    }
    return chances;
}

using Sampler = std::function<std::vector<Pick>(const Census &, uint64_t sequence, uint64_t n)>;

// The least p-value over the places of a draw, each tested over all records, times their number (Bonferroni).
double policy_p_value(const std::string &policy, const Census &census, uint64_t n, uint64_t draws,
                      const Sampler &sampler) {
    n = std::min(n, census.total());
    std::vector<std::vector<uint64_t>> counts(n, std::vector<uint64_t>(census.total()));
    for (uint64_t sequence = 0; sequence < draws; ++sequence) {
        const std::vector<Pick> picks = sampler(census, sequence, n);
        CHECK_EQUAL(picks.size(), n);
        for (uint64_t i = 0; i < n; ++i) ++counts[i][number_of(census, picks[i])];
    }
    const auto chances = class_chances(census, policy == "class_balanced" ? n : 0);
    double least = 1;
    for (uint64_t i = 0; i < n; ++i) {
        std::vector<double> probabilities;  // within a class any record is like any other
        for (uint32_t rank = 0; rank < census.ranks; ++rank)
            for (uint32_t label = 0; label < census.num_classes; ++label)
                probabilities.insert(probabilities.end(), census.class_on(rank, label),
                                     policy == "uniform"
                                         ? 1.0 / static_cast<double>(census.total())
                                         : chances[i][label] / static_cast<double>(census.of_class[label]));
        least = std::min(least, multinomial_p_value(counts[i], probabilities) * static_cast<double>(n));
    }
    return least;
}

// The same over all worlds of more than one record.
double policy_p_value(const std::string &policy, const Sampler &sampler) {
    double least = 1;
    for (size_t world = 1; world < WORLDS.size(); ++world)
        least = std::min(least, policy_p_value(policy, census_of(WORLDS[world]), 6, 40000 / SHORTER, sampler));
    return least * static_cast<double>(WORLDS.size() - 1);
}

TEST(draw_laws) {
    Samplers sampling;
    for (const std::string policy : {"uniform", "class_balanced"}) {
        const double p = policy_p_value(policy, [&](const Census &census, uint64_t sequence, uint64_t n) {
            return sampling.draw(policy, census, Stream(11, 1, Purpose::draw), sequence, n);
        });
        CHECK_THAT(p > ERROR_RATE, "policy " << policy << ", p " << p);
    }
}

// What the tests above must not let through: mistakes that other buffers really make.
TEST(wrong_draw_laws_are_found) {
    Samplers sampling;
    const Stream stream(11, 1, Purpose::draw);
    const auto one_each = [](const std::function<Pick(const Census &, uint64_t, uint32_t)> &choose) {
        return [choose](const Census &census, uint64_t sequence, uint64_t n) {
            std::vector<Pick> picks;
            for (uint32_t i = 0; i < n; ++i) picks.push_back(choose(census, sequence, i));
            return picks;
        };
    };
    const auto at = [](const Census &census, uint64_t number) {
        uint32_t rank = 0;
        while (number >= census.stored.on(rank)) number -= census.stored.on(rank++);
        return Pick{rank, ANY_CLASS, number, 1};
    };
    const struct {
        const char *name;
        const char *policy;
        Sampler sampler;
    } wrong[] = {
        {"a rank, then a record: small shards are drawn too often", "uniform",
         one_each([&](const Census &census, uint64_t sequence, uint32_t i) {
             uint64_t filled = 0;
             for (uint32_t rank = 0; rank < census.ranks; ++rank) filled += census.stored.on(rank) > 0;
             uint64_t chosen = stream.below(filled, sequence, 2 * i);
             uint32_t rank = 0;
             while (!census.stored.on(rank) || chosen--) ++rank;
             return Pick{rank, ANY_CLASS, stream.below(census.stored.on(rank), sequence, 2 * i + 1), 1};
         })},
        {"the first record never", "uniform", one_each([&](const Census &census, uint64_t sequence, uint32_t i) {
             return at(census, 1 + stream.below(census.total() - 1, sequence, i));
         })},
        {"a remainder, which favours the first", "uniform",
         one_each([&](const Census &census, uint64_t sequence, uint32_t i) {
             return at(census, (stream.bits(sequence, i) & 63) % census.total());
         })},
        {"uniform instead of by class", "class_balanced",
         [&](const Census &census, uint64_t sequence, uint64_t n) {
             return sampling.draw("uniform", census, stream, sequence, n);
         }},
        {"by class instead of uniform", "uniform",
         [&](const Census &census, uint64_t sequence, uint64_t n) {
             return sampling.draw("class_balanced", census, stream, sequence, n);
         }},
    };
    for (const auto &each : wrong) {
        const double p = policy_p_value(each.policy, each.sampler);
        CHECK_THAT(p < ERROR_RATE * 1e-3, each.name << ", p " << p);
    }
}

// The draws of 1,024 ranks together, as each of them computes those that touch its shard.
TEST(chances_at_1024_ranks) {
    constexpr uint32_t RANKS = 1024;
    constexpr uint64_t N = 32, DRAWS = 12;
    std::vector<std::vector<uint64_t>> world(RANKS, std::vector<uint64_t>(3));
    for (uint32_t rank = 0; rank < RANKS; ++rank)
        world[rank] = {rank % 3, rank % 7 == 0 ? uint64_t{9} : 0, rank < 5 ? uint64_t{30} : 0};
    const Census census = census_of(world);
    for (const std::string policy : {"uniform", "class_balanced"}) {
        const auto sampling = SamplingPolicy::registry().find(policy).make({{}});
        std::vector<uint64_t> counts(census.total()), of_class(3);
        for (uint64_t sequence = 0; sequence < DRAWS; ++sequence)
            for (uint32_t rank = 0; rank < RANKS; ++rank)
                for (const Pick &pick : sampling->draw(census, Stream(3, rank, Purpose::draw), sequence, N)) {
                    const bool uniform = pick.label == ANY_CLASS;
                    ++(uniform ? counts[census.stored.before(pick.rank) + pick.position] : of_class[pick.label]);
                }
        const double p = policy == "uniform" ? equal_chance_p_value(counts, DRAWS * RANKS, N)
                                             : equal_chance_p_value(of_class, DRAWS * RANKS * N, 1);
        CHECK_THAT(p > ERROR_RATE, policy << ", p " << p);
    }
}

// The mean of weight * f(record) over draws of one is the mean of f over all records: here f marks a class.
TEST(weights_undo_the_draw_law) {
    Samplers sampling;
    const Census census = census_of(WORLDS[2]);
    for (uint32_t label : {0u, 1u, 3u}) {
        for (const Pick &pick : sampling.draw("class_balanced", census, Stream(1, 0, Purpose::draw), 0, 50)) {
            if (pick.label != label) continue;
            const double chance = 1 / (3.0 * static_cast<double>(census.of_class[label]));
            CHECK(std::fabs(pick.weight * chance * static_cast<double>(census.total()) - 1) < 1e-6);
        }
    }
    for (const Pick &pick : sampling.draw("uniform", census, Stream(1, 0, Purpose::draw), 0, 50))
        CHECK_EQUAL(pick.weight, 1);
}

// ---- memory of draws ------------------------------------------------------------------------------------------------

const std::vector<FieldInfo> FIELDS = {{"y", 8}, {"odd", 5}, {"wide", 3000}};

TEST(staging_is_aligned_and_has_room) {
    for (uint64_t rows : {0, 1, 33}) {
        Staging staging(FIELDS, rows);
        std::vector<std::pair<const std::byte *, size_t>> parts;
        for (size_t i = 0; i < FIELDS.size(); ++i) parts.push_back({staging.column(i), rows * FIELDS[i].row_bytes});
        parts.push_back({reinterpret_cast<const std::byte *>(staging.ids), rows * sizeof(uint64_t)});
        parts.push_back({reinterpret_cast<const std::byte *>(staging.weights), rows * sizeof(float)});
        std::sort(parts.begin(), parts.end());
        const std::byte *end = staging.memory.data() + 8;  // where it leads back to its object
        for (const auto &[begin, bytes] : parts) {
            CHECK_EQUAL(reinterpret_cast<uintptr_t>(begin) % 64, 0);
            CHECK(begin >= end);
            end = begin + bytes;
        }
        CHECK(end <= staging.memory.data() + staging.memory.bytes());
    }
}

TEST(staging_is_used_again) {
    const auto pool = std::make_shared<StagingPool>(FIELDS);
    const auto lend = [&](uint64_t rows) { return pool->take(rows).release()->lend(pool); };
    void *first = lend(32), *second = lend(32);
    CHECK(first != second);
    const uint64_t bytes = pool->bytes();
    for (int step = 0; step < 100; ++step) {  // two draws on their way, in other threads as well
        std::thread([&] { Staging::release(first); }).join();
        void *third = lend(step % 2 ? 32 : 20);
        CHECK(third == first);
        first = std::exchange(second, third);
    }
    CHECK_EQUAL(pool->bytes(), bytes);
    Staging::release(first);
    Staging::release(second);
    CHECK_EQUAL(pool->bytes(), bytes);
    for (int step = 0; step < 20; ++step) Staging::release(lend(1000));  // other draws: small blocks give way
    void *large = lend(1000), *other = lend(1000);
    Staging::release(large);
    Staging::release(other);
    CHECK_EQUAL(pool->bytes(), 2 * Staging(FIELDS, 1000).memory.bytes());
}

TEST(staging_outlives_its_pool) {
    auto pool = std::make_shared<StagingPool>(FIELDS);
    std::vector<void *> leases;
    for (int i = 0; i < 3; ++i) leases.push_back(pool->take(10).release()->lend(pool));
    pool.reset();
    for (void *lease : leases) {
        std::memset(static_cast<std::byte *>(lease) + 64, 1, 100);
        Staging::release(lease);
    }
}

TEST(staging_from_many_threads) {
    const auto pool = std::make_shared<StagingPool>(FIELDS);
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number)
        threads.emplace_back([&, number] {
            for (int step = 0; step < 2000 / SHORTER; ++step) {
                Staging *block = pool->take(static_cast<uint64_t>(1 + step % 50)).release();
                void *lease = block->lend(pool);
                std::memset(block->column(1), number, 5);
                CHECK_EQUAL(static_cast<int>(block->column(1)[4]), number);
                Staging::release(lease);
            }
        });
    for (std::thread &thread : threads) thread.join();
}

// ---- memory that other processes may read
// ----------------------------------------------------------------------------

TEST(shared_memory_is_its_owners_and_never_shorter) {
    constexpr size_t BYTES = 100;
    const Memory memory = Memory::shared(BYTES);
    if (memory.descriptor() < 0) return;  // the system has no such
    struct stat about;
    CHECK(fstat(memory.descriptor(), &about) == 0);
    CHECK_EQUAL(about.st_mode & 0777, 0600u);
    CHECK(ftruncate(memory.descriptor(), 1) != 0);
    CHECK(ftruncate(memory.descriptor(), 1 << 20) != 0);
    memory.data()[7] = std::byte{9};
    const MappingAddress right = mapping_address(memory);
    const Memory mapped = map_other(right, BYTES);
    CHECK(mapped.data() && mapped.data()[7] == std::byte{9});
    CHECK(!map_other(right, BYTES + 1).data());
    CHECK(!map_other(right, BYTES - 1).data());
    MappingAddress wrong = right;
    wrong.token[15] ^= 1;
    CHECK(!map_other(wrong, BYTES).data());
    CHECK(!map_other({}, BYTES).data());
    CHECK(!map_other({right.process, 1 << 20, right.token}, BYTES).data());
}

#ifdef MFD_CLOEXEC
// Files that a wrong address may lead to: not opened, or not believed.
TEST(other_files_are_not_taken_for_shared_memory) {
    const auto refused = [](int file) {
        CHECK(file >= 0);
        MappingAddress address{getpid(), file, {}};
        CHECK(!map_other(address, 16).data());
        close(file);
    };
    const auto filled = [](const char *name, unsigned flags, int seals) {
        const int file = memfd_create(name, flags);
        CHECK(ftruncate(file, 32) == 0);  // with a token of zeros, which would be right
        CHECK(seals == 0 || fcntl(file, F_ADD_SEALS, seals) == 0);
        return file;
    };
    refused(filled("replay", 0, 0));
    refused(filled("replay", MFD_ALLOW_SEALING, 0));
    refused(filled("replay", MFD_ALLOW_SEALING, F_SEAL_GROW));
    refused(filled("another", MFD_ALLOW_SEALING, F_SEAL_SHRINK));
    refused(open("/dev/zero", O_RDONLY));
    MappingAddress right{getpid(), filled("replay", MFD_ALLOW_SEALING, F_SEAL_SHRINK), {}};
    CHECK(map_other(right, 16).data());  // so it is what was missing above
    close(right.descriptor);
}
#endif

RUN_TESTS
