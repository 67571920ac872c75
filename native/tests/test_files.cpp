// Files of shards: damage, a full disk, and that a buffer goes on as if it had never been saved. One rank; several
// ranks are in test_ranks.cpp.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <functional>

#include "../src/file.h"
#include "folder.h"
#include "records.h"

using namespace replay;
using namespace replay::test;

std::vector<char> content(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string &path, const std::vector<char> &bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// One byte of a file, in place.
void poke(const std::string &path, size_t place, char byte) {
    const int file = open(path.c_str(), O_WRONLY);
    CHECK(file >= 0);
    CHECK_EQUAL(pwrite(file, &byte, 1, static_cast<off_t>(place)), 1);
    close(file);
}

bool exists(const std::string &path) { return access(path.c_str(), F_OK) == 0; }

// ---- FileWriter and FileReader --------------------------------------------------------------------------------------

struct Sample {
    uint64_t number;
    std::string text;
    std::vector<uint32_t> list;
};

void write_sample(const std::string &path, const Sample &sample) {
    FileWriter file(path);
    file.number(sample.number);
    file.text(sample.text);
    file.list(sample.list);
    file.commit();
}

Sample read_sample(const std::string &path) {
    FileReader file(path);
    Sample sample;
    sample.number = file.number();
    sample.text = file.text();
    sample.list = file.list<uint32_t>();
    file.finish();
    return sample;
}

TEST(files_hold_what_was_written) {
    const Folder folder;
    for (const Sample &sample : {Sample{7, "some text", {1, 2, 3}}, Sample{0, "", {}},
                                 Sample{~uint64_t{0}, std::string(100000, 'x'), std::vector<uint32_t>(50001, 9)}}) {
        write_sample(folder / "file", sample);
        CHECK(!exists(folder / "file.part"));
        const Sample read = read_sample(folder / "file");
        CHECK(read.number == sample.number && read.text == sample.text && read.list == sample.list);
    }
}

TEST(damaged_files_are_refused) {
    const Folder folder;
    write_sample(folder / "file", {7, "some text", {1, 2, 3}});
    const std::vector<char> whole = content(folder / "file");
    write(folder / "flipped", whole);
    for (size_t place = 0; place < whole.size(); ++place) {
        for (int bit = 0; bit < 8; ++bit) {
            poke(folder / "flipped", place, static_cast<char>(whole[place] ^ 1 << bit));
            CHECK_FAILS(read_sample(folder / "flipped"), RB_INVALID, "flipped");
        }
        poke(folder / "flipped", place, whole[place]);
    }
    write(folder / "short", whole);
    for (size_t length = whole.size(); length-- > 0;) {
        CHECK(truncate((folder / "short").c_str(), static_cast<off_t>(length)) == 0);
        CHECK_FAILS(read_sample(folder / "short"), RB_INVALID, "short");
    }
    std::vector<char> longer = whole;
    longer.push_back(0);
    write(folder / "longer", longer);
    CHECK_FAILS(read_sample(folder / "longer"), RB_INVALID, "longer");
}

TEST(files_that_cannot_be_opened) {
    const Folder folder;
    CHECK_FAILS(FileReader(folder / "nothing"), RB_SYSTEM, "nothing");
    CHECK_FAILS(FileWriter(folder / "nowhere/file"), RB_SYSTEM, "nowhere");
    mkdir((folder / "taken").c_str(), 0700);
    CHECK_FAILS(write_sample(folder / "taken", {}), RB_SYSTEM, "taken");  // at the end: a folder has that name
    CHECK(!exists(folder / "taken.part"));
    CHECK_FAILS(read_sample(folder / "taken"), RB_SYSTEM, "taken");
}

// A disk is full once a file has `limit` bytes.
struct FullDisk {
    explicit FullDisk(uint64_t limit) {
        std::signal(SIGXFSZ, SIG_IGN);  // then write(2) fails
        getrlimit(RLIMIT_FSIZE, &before);
        rlimit now{limit, before.rlim_max};
        CHECK(setrlimit(RLIMIT_FSIZE, &now) == 0);
    }
    ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before); }
    rlimit before;
};

TEST(full_disk_keeps_the_old_file) {
    const Folder folder;
    const Sample old{7, "old", {1}}, larger{8, std::string(100000, 'x'), std::vector<uint32_t>(50001, 9)};
    write_sample(folder / "file", larger);
    const uint64_t size = content(folder / "file").size();
    write_sample(folder / "file", old);
    for (uint64_t limit : {uint64_t{0}, uint64_t{100}, uint64_t{4096}, uint64_t{99999}, size - 9, size - 8, size - 1}) {
        {
            const FullDisk full(limit);
            CHECK_FAILS(write_sample(folder / "file", larger), RB_SYSTEM, "file");
        }
        CHECK(!exists(folder / "file.part"));
        CHECK_EQUAL(read_sample(folder / "file").text, old.text);
    }
    const FullDisk enough(size);
    write_sample(folder / "file", larger);
    CHECK_EQUAL(read_sample(folder / "file").text, larger.text);
}

// ---- the order of what reaches the disk

std::vector<std::string> steps;  // of `disk`, while a test looks
int failing_sync = 0;            // the errno of the sync of a folder, 0: none

int recorded_sync(int descriptor) {
    struct stat about;
    CHECK(fstat(descriptor, &about) == 0);
    steps.push_back(S_ISDIR(about.st_mode) ? "folder" : "file of " + std::to_string(about.st_size));
    errno = failing_sync;
    return S_ISDIR(about.st_mode) && failing_sync ? -1 : 0;
}

int recorded_rename(const char *from, const char *to) {
    steps.push_back("rename");
    return std::rename(from, to);
}

TEST(content_reaches_the_disk_before_its_name_and_then_the_folder) {
    const Folder folder;
    const Disk before = disk;
    disk = {recorded_sync, recorded_rename};
    write_sample(folder / "file", {7, "text", {1}});
    const std::vector<std::string> expected{"file of " + std::to_string(content(folder / "file").size()), "rename",
                                            "folder"};
    CHECK(steps == expected);
    failing_sync = EINVAL;  // a file system that cannot do this to folders
    write_sample(folder / "file", {8, "text", {1}});
    failing_sync = EIO;
    CHECK_FAILS(write_sample(folder / "file", {9, "text", {1}}), RB_SYSTEM, "its folder");
    CHECK_EQUAL(read_sample(folder / "file").number, 9u);
    failing_sync = 0;
    CHECK(chdir(folder.path.c_str()) == 0);
    write_sample("file", {10, "text", {1}});  // without a folder in its path
    CHECK_EQUAL(steps.back(), "folder");
    CHECK(chdir("/") == 0);
    disk = before;
}

// ---- a buffer of one rank -------------------------------------------------------------------------------------------

std::unique_ptr<Buffer> buffer_of(const Policies &policies, uint64_t capacity = 30, const Shape &shape = {}) {
    Options o = options(0, 1, capacity, shape);
    policies.apply(o);
    return std::make_unique<Buffer>(o, nullptr);
}

// Some steps with two draws on their way; everything that was received.
uint64_t go_on(Buffer &buffer, uint64_t from, uint64_t to) {
    uint64_t digest = 0;
    for (uint64_t step = from; step < to; ++step) {
        std::vector<uint64_t> ids, values;
        if (step >= 2) {
            const Received draw(buffer);
            digest = draw.digest(digest);
            for (uint64_t i = 0; i < draw.count(); i += 2) {
                ids.push_back(draw.id(i));
                values.push_back(draw.number(i) * VERSIONS + step);
            }
        }
        add(buffer, numbers(0, step * 10, step % 7));
        buffer.update(VALUE, ids.size(), ids.data(), reinterpret_cast<const std::byte *>(values.data()));
        buffer.request(step % 9);
    }
    return digest;
}

TEST(a_loaded_buffer_goes_on_to_the_bit) {
    const Folder folder;
    for (const Policies &policies : POLICIES)
        for (uint64_t saved_at : {0, 1, 5, 60}) {
            const auto buffer = buffer_of(policies), other = buffer_of(policies);
            go_on(*buffer, 0, saved_at);
            const Saved copy = buffer->copy();
            const uint64_t expected = go_on(*buffer, saved_at, 100);
            write_saved(folder / "shard", copy);  // nothing that came since is in it
            add(*other, numbers(0, 12345, 9));    // gives way
            CHECK(other->load({folder / "shard"}).empty());
            rb_stats stats{};
            other->statistics(stats);
            CHECK_EQUAL(stats.pending, std::min<uint64_t>(saved_at, 2));
            CHECK_EQUAL(stats.requests, saved_at);
            CHECK_EQUAL(go_on(*other, saved_at, 100), expected);
        }
}

// Draws that give way to those of the file are not counted as memory any more.
TEST(loading_again_and_again_takes_no_memory) {
    const Folder folder;
    const auto buffer = buffer_of(POLICIES[0]);
    go_on(*buffer, 0, 20);
    write_saved(folder / "shard", buffer->copy());
    uint64_t bytes = 0;
    for (int i = 0; i < 20; ++i) {
        buffer->load({folder / "shard"});
        rb_stats stats{};
        buffer->statistics(stats);
        if (i == 2) bytes = stats.staging_bytes;
        CHECK_THAT(i < 3 || stats.staging_bytes <= bytes, bytes << " bytes grew to " << stats.staging_bytes);
    }
}

std::string describe(Buffer &buffer) {
    rb_stats stats{};
    buffer.statistics(stats);
    std::ostringstream text;
    text << stats.stored << " " << stats.offered << " " << stats.requests << " " << stats.pending;
    return text.str();
}

// Whatever byte of the file is wrong, loading it is refused and changes nothing.
TEST(a_damaged_shard_is_refused) {
    const Folder folder;
    const Shape shape{3, 16};
    for (const Policies &policies : POLICIES) {
        const auto buffer = buffer_of(policies, 6, shape), other = buffer_of(policies, 6, shape);
        add(*buffer, numbers(0, 0, 11), shape);
        buffer->request(2);
        write_saved(folder / "shard", buffer->copy());
        add(*other, numbers(0, 100, 4), shape);
        const std::string before = describe(*other);
        const std::vector<char> whole = content(folder / "shard");
        const std::string path = folder / "damaged";
        write(path, whole);
        const auto refused = [&](const char *how, size_t place) {
            try {
                other->load({path});
            } catch (const Error &error) {
                CHECK_THAT(error.status == RB_INVALID, how << " " << place << ": " << error.what());
                CHECK_EQUAL(describe(*other), before);
                return;
            }
            CHECK_THAT(false, how << " " << place << " was not found");
        };
        for (size_t place = 0; place < whole.size(); ++place) {
            for (size_t bit = place % 3; bit < 8; bit += 3) {
                poke(path, place, static_cast<char>(whole[place] ^ 1 << bit));
                refused("a bit flipped in byte", place);
            }
            poke(path, place, whole[place]);
        }
        std::vector<char> longer = whole;
        longer.push_back(1);
        write(path, longer);
        refused("a byte more than", whole.size());
        for (size_t length = whole.size(); length-- > 0;) {
            CHECK(truncate(path.c_str(), static_cast<off_t>(length)) == 0);
            refused("only so many bytes:", length);
        }
        other->request(10);  // what was there is there still
        CHECK(Received(*other, shape).all_numbers() == std::set<uint64_t>({100, 101, 102, 103}));
    }
}

TEST(shards_of_other_buffers_are_refused) {
    const Folder folder;
    const auto buffer = buffer_of(POLICIES[0]);
    add(*buffer, numbers(0, 0, 20));
    write_saved(folder / "shard", buffer->copy());
    const auto refused = [&](const std::function<void(Options &)> &change, const char *part) {
        Options o = options(0, 1, 30);
        change(o);
        Buffer other(o, nullptr);
        CHECK_FAILS(other.load({folder / "shard"}), RB_INVALID, part);
        CHECK_EQUAL(describe(other), "0 0 0 0");
    };
    refused([](Options &o) { o.capacity = 31; }, "31");
    refused([](Options &o) { o.seed = 43; }, "43");
    refused([](Options &o) { o.num_classes = 8; }, "classes 8");
    refused([](Options &o) { o.insertion = "class_balanced"; }, "insertion class_balanced");
    refused([](Options &o) { o.sampling = "class_balanced"; }, "sampling class_balanced");
    refused([](Options &o) { o.label_field = NUMBER; }, "label field 1");
    refused([](Options &o) { o.fields[WIDE].row_bytes = 128; }, "wide:128");
    refused([](Options &o) { o.fields[WIDE].name = "broad"; }, "broad");
    refused([](Options &o) { o.fields.pop_back(); }, "fields");
    refused([](Options &o) { o.fields.push_back({"more", 1}); }, "more");
    CHECK_FAILS(buffer->load({folder / "nothing"}), RB_SYSTEM, "nothing");
    CHECK_FAILS(buffer->load({folder / "shard", folder / "shard"}), RB_INVALID, "rank");
    CHECK_EQUAL(describe(*buffer), "20 20 0 0");
}

TEST(a_buffer_survives_a_full_disk) {
    const Folder folder;
    const auto buffer = buffer_of(POLICIES[0]), same = buffer_of(POLICIES[0]);
    go_on(*buffer, 0, 20);
    go_on(*same, 0, 20);
    {
        const FullDisk full(1000);
        CHECK_FAILS(write_saved(folder / "shard", buffer->copy()), RB_SYSTEM, "shard");
    }
    CHECK(!exists(folder / "shard") && !exists(folder / "shard.part"));
    CHECK_EQUAL(go_on(*buffer, 20, 50), go_on(*same, 20, 50));
}

RUN_TESTS
