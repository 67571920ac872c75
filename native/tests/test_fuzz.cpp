// Saved files that say what cannot be: refused, and the buffer as it was; what is accepted can be used. Run with
// AddressSanitizer and UndefinedBehaviorSanitizer as well (`make check-sanitizers`).
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <random>

#include "../src/snapshot.h"
#include "folder.h"
#include "local_transport.h"
#include "records.h"

using namespace replay;
using namespace replay::test;

namespace {

const Shape SHAPE{7, 8};

// Thousands of files that need not survive a crash.
const bool unsynced = (disk.sync = [](int) { return 0; }, true);

std::vector<char> content(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string &path, const std::vector<char> &bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

Saved read(const std::string &path) {
    const std::vector<FieldInfo> all = fields(SHAPE);
    const Expected nothing{"", all, SHAPE.num_classes, Y};
    return read_saved(path, {read_saved(path, nothing).about.policies, all, SHAPE.num_classes, Y});
}

std::vector<Options> all_options(uint32_t ranks, const Policies &policies) {
    std::vector<Options> all;
    for (uint32_t rank = 0; rank < ranks; ++rank) {
        all.push_back(options(rank, ranks, 30, SHAPE));
        policies.apply(all.back());
    }
    return all;
}

// The shard of rank 0 of two: with free slots, pending draws and updates that no draw has seen.
void save_two(const Folder &folder, const Policies &policies, uint64_t records) {
    Job job(all_options(2, policies));
    job.each([&](uint32_t rank, Buffer &buffer) {
        add(buffer, numbers(rank, 0, records), SHAPE);
        buffer.request(4);
        const Received received(buffer, SHAPE);
        buffer.request(3);
        buffer.request(6);
        const std::vector<uint64_t> ids{received.id(0), received.id(1)};
        const uint64_t values[] = {5, 6};
        buffer.update(VALUE, 2, ids.data(), reinterpret_cast<const std::byte *>(values));
        write_saved(folder / std::to_string(rank), buffer.copy());
    });
    job.close();
}

// Whatever was loaded: no crash, and only errors that are declared.
void use(Buffer &buffer, std::mt19937_64 &random) {
    const auto attempt = [](const std::function<void()> &call) {
        try {
            call();
        } catch (const Error &error) {
            CHECK_THAT(error.status == RB_INVALID || error.status == RB_SYSTEM, error.what());
        }
    };
    std::vector<uint64_t> ids;
    for (int step = 0; step < 4; ++step) {
        add(buffer, numbers(0, random() % 1000, 13), SHAPE);
        attempt([&] { buffer.request(random() % 40); });
        rb_stats stats{};
        buffer.statistics(stats);
        for (uint64_t draw = 0; draw < stats.pending; ++draw) {
            rb_records records{};
            buffer.receive(records);
            ids.assign(records.ids, records.ids + records.count);
            rb_release(records.lease);
        }
        const std::vector<uint64_t> values(ids.size());
        attempt(
            [&] { buffer.update(VALUE, ids.size(), ids.data(), reinterpret_cast<const std::byte *>(values.data())); });
    }
}

void put_label(Rows &rows, size_t place, int64_t label) {
    std::memcpy(rows.data() + place * sizeof label, &label, sizeof label);
}

const struct {
    const char *what;
    std::function<void(Saved &)> change;
} MISTAKES[] = {
    {"a rank beyond its ranks", [](Saved &s) { s.about.rank = 2; }},
    {"no ranks", [](Saved &s) { s.about.ranks = 0; }},
    {"a larger capacity", [](Saved &s) { ++s.about.capacity; }},
    {"a huge capacity", [](Saved &s) { s.about.capacity = ~uint64_t{0}; }},
    {"fewer requests than draws", [](Saved &s) { s.requested = 1; }},
    {"more requests than there can be", [](Saved &s) { s.requested = ~uint64_t{0}; }},
    {"more records than there can be", [](Saved &s) { s.insertion.offered = ~uint64_t{0}; }},
    {"a time below 0", [](Saved &s) { s.wait_seconds = -1; }},
    {"a time that is none", [](Saved &s) { s.wait_seconds = std::nan(""); }},
    {"fewer offered than stored", [](Saved &s) { s.insertion.offered = 3; }},
    {"a key too few", [](Saved &s) { s.insertion.keys.pop_back(); }},
    {"a name too few", [](Saved &s) { s.ids.pop_back(); }},
    {"a free slot out of range", [](Saved &s) { s.insertion.free[0] = 30; }},
    {"a free slot far out of range", [](Saved &s) { s.insertion.free[0] = UINT32_MAX; }},
    {"a free slot twice", [](Saved &s) { s.insertion.free[0] = s.insertion.free[1]; }},
    {"a free slot that is stored", [](Saved &s) { s.insertion.free[0] = s.stored[0]; }},
    {"a free slot too few", [](Saved &s) { s.insertion.free.pop_back(); }},
    {"a stored slot out of range", [](Saved &s) { s.stored[0] = 30; }},
    {"a stored slot twice", [](Saved &s) { s.stored[0] = s.stored[1]; }},
    {"a slot in two classes", [](Saved &s) { s.members[1][0] = s.members[2][0]; }},
    {"a slot out of range in a class", [](Saved &s) { s.members[1][0] = 1000; }},
    {"a free slot in a class", [](Saved &s) { s.members[1][0] = s.insertion.free[0]; }},
    {"a record in another class", [](Saved &s) { std::swap(s.members[1][0], s.members[2][0]); }},
    {"a class that does not exist has appeared", [](Saved &s) { s.insertion.appearance.push_back(7); }},
    {"a class has appeared twice", [](Saved &s) { s.insertion.appearance.assign(2, 3); }},
    {"a name of another slot", [](Saved &s) { std::swap(s.ids[s.stored[0]], s.ids[s.stored[1]]); }},
    {"a name of another rank", [](Saved &s) { s.ids[s.stored[0]] |= uint64_t{1} << 52; }},
    {"no name", [](Saved &s) { s.ids[s.stored[1]] = 0; }},
    {"a label below 0", [](Saved &s) { put_label(s.columns[Y], 0, -1); }},
    {"a label out of range", [](Saved &s) { put_label(s.columns[Y], 0, 7); }},
    {"a column too short", [](Saved &s) { s.columns[WIDE].pop_back(); }},
    {"a draw larger than it was asked for", [](Saved &s) { s.draws[0].n = s.draws[0].count - 1; }},
    {"a draw that is too large", [](Saved &s) { s.draws[0].n = uint64_t{1} << 32; }},
    {"a name of no rank in a draw", [](Saved &s) { s.draws[0].ids[0] = ~uint64_t{0}; }},
    {"a weight of 0", [](Saved &s) { s.draws[0].weights[0] = 0; }},
    {"a weight that is none", [](Saved &s) { s.draws[0].weights[0] = std::nanf(""); }},
    {"a weight too few", [](Saved &s) { s.draws[0].weights.pop_back(); }},
    {"a label out of range in a draw", [](Saved &s) { put_label(s.draws[1].columns[Y], 1, 1 << 20); }},
    {"a column too short in a draw", [](Saved &s) { s.draws[0].columns[ODD].pop_back(); }},
    {"an update of the label", [](Saved &s) { s.updates[0].field = Y; }},
    {"an update of no field", [](Saved &s) { s.updates[0].field = NUM_FIELDS; }},
    {"an update of another size", [](Saved &s) { s.updates[0].rows.pop_back(); }},
    {"an update of a record of no rank", [](Saved &s) { s.updates[0].ids[0] = ~uint64_t{0}; }},
};

// One number somewhere is another one.
void change_one(Saved &s, std::mt19937_64 &random) {
    const uint64_t values[] = {0, 1, 6, 7, 29, 30, 31, UINT32_MAX, uint64_t{1} << 32, ~uint64_t{0}, random()};
    const uint64_t value = values[random() % std::size(values)];
    const auto in = [&](auto &list) {
        if (!list.empty())
            list[random() % list.size()] = static_cast<typename std::decay_t<decltype(list)>::value_type>(value);
    };
    const auto bytes = [&](Rows &rows) {
        if (rows.size() >= 8) std::memcpy(rows.data() + random() % (rows.size() - 7), &value, 8);
    };
    switch (random() % 14) {
        case 0: s.requested = value; break;
        case 1: s.insertion.offered = value; break;
        case 2: in(s.insertion.keys); break;
        case 3: in(s.insertion.free); break;
        case 4: in(s.insertion.appearance); break;
        case 5: in(s.stored); break;
        case 6: in(s.members[random() % s.members.size()]); break;
        case 7: in(s.ids); break;
        case 8: bytes(s.columns[random() % s.columns.size()]); break;
        case 9: s.draws.at(random() % s.draws.size()).n = value; break;
        case 10: in(s.draws.at(random() % s.draws.size()).ids); break;
        case 11: bytes(s.draws.at(0).columns[random() % NUM_FIELDS]); break;
        case 12: s.insertion.appearance.push_back(static_cast<uint32_t>(value)); break;
        default: s.about.capacity = value; break;
    }
}

}  // namespace

TEST(files_that_say_what_cannot_be_are_refused) {
    const Folder folder;
    save_two(folder, POLICIES[1], 20);
    const Saved right = read(folder / "0");
    CHECK(right.insertion.free.size() == 10 && right.draws.size() == 2 && right.updates.size() == 1);
    Job job(all_options(2, POLICIES[1])), twin(all_options(2, POLICIES[1]));
    Buffer &buffer = *job.buffers[0];
    for (const auto &mistake : MISTAKES) {
        Saved wrong = right;
        mistake.change(wrong);
        write_saved(folder / "wrong", wrong);
        std::string said = "nothing";
        try {
            buffer.load({folder / "wrong", folder / "1"});
        } catch (const Error &error) {
            said = error.what();
            CHECK_THAT(error.status == RB_INVALID, mistake.what << ": " << said);
        }
        CHECK_THAT(said.find("wrong") != std::string::npos, mistake.what << ": " << said);
    }
    for (Job *one : {&job, &twin})  // as it was, and the right one is still loaded
        one->each([&](uint32_t, Buffer &each) { each.load({folder / "0", folder / "1"}); });
    uint64_t digests[2][2];
    for (int i : {0, 1})
        (i ? twin : job).each([&](uint32_t rank, Buffer &each) {
            const Received first(each, SHAPE), second(each, SHAPE);
            digests[i][rank] = second.digest(first.digest(0));
        });
    CHECK(std::memcmp(digests[0], digests[1], sizeof digests[0]) == 0);
    job.close();
    twin.close();
}

TEST(files_of_another_version_say_so) {
    const Folder folder;
    Buffer buffer(options(0, 1, 30, SHAPE), nullptr);
    write_saved(folder / "file", buffer.copy());
    std::vector<char> bytes = content(folder / "file");
    const std::string text(bytes.begin(), bytes.end());
    bytes[text.find("replay shard 2") + 13] = '1';
    write(folder / "file", bytes);
    CHECK_FAILS(buffer.load({folder / "file"}), RB_INVALID, "another version of this library: expected replay shard 2");
}

TEST(any_byte_may_be_any_other) {
    const Folder folder;
    Buffer buffer(options(0, 1, 12, SHAPE), nullptr);
    add(buffer, numbers(0, 0, 9), SHAPE);
    buffer.request(4);
    write_saved(folder / "file", buffer.copy());
    const std::vector<char> whole = content(folder / "file");
    std::mt19937_64 random(3);
    for (size_t place = 0; place < whole.size(); place += SHORTER) {
        std::vector<char> bytes = whole;
        for (char other : {static_cast<char>(0xff), static_cast<char>(0x80), static_cast<char>(1 + random() % 255)}) {
            bytes[place] = static_cast<char>(whole[place] ^ other);
            write(folder / "changed", bytes);
            CHECK_FAILS(buffer.load({folder / "changed"}), RB_INVALID, "changed");
        }
    }
    CHECK_EQUAL(Received(buffer, SHAPE).count(), 4u);
}

// With a right checksum: refused, or good enough to go on with.
TEST(any_number_may_be_any_other) {
    std::mt19937_64 random(4);
    int refused = 0, accepted = 0;
    for (const Policies &policies : POLICIES) {
        const Folder folder;
        Options o = options(0, 1, 30, SHAPE);
        policies.apply(o);
        Buffer source(o, nullptr);
        add(source, numbers(0, 0, 25), SHAPE);
        source.request(5);
        source.request(2);
        write_saved(folder / "file", source.copy());
        const Saved right = read(folder / "file");
        for (int round = 0; round < 2000 / SHORTER; ++round) {
            Saved changed = right;
            for (uint64_t changes = 1 + random() % 2; changes > 0; --changes) change_one(changed, random);
            write_saved(folder / "changed", changed);
            Buffer buffer(o, nullptr);
            try {
                buffer.load({folder / "changed"});
                ++accepted;
            } catch (const Error &error) {
                CHECK_THAT(error.status == RB_INVALID, error.what());
                ++refused;
            }
            use(buffer, random);
        }
    }
    CHECK_THAT(refused > 100 && accepted > 100, refused << " refused, " << accepted << " accepted");
}

RUN_TESTS
