// Files of any content whatever: refused, or good enough to go on with. The checksum is not looked at here.
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "../src/error.h"
#include "../tests/folder.h"
#include "input.h"
#include "setting.h"

namespace {

using namespace replay;
using namespace replay::fuzz;

// A file in memory, by a path.
class File {
  public:
    File() : descriptor_(memfd_create("shard", 0)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {}
    const std::string &path() const { return path_; }
    void write(const uint8_t *data, size_t bytes) const {
        require(ftruncate(descriptor_, 0) == 0 && pwrite(descriptor_, data, bytes, 0) == static_cast<ssize_t>(bytes),
                "the file was written");
    }

  private:
    const int descriptor_;
    const std::string path_;
};

// The calls of some steps. The caller's mistakes are errors, all else works.
void use(Buffer &buffer) {
    for (uint8_t step = 0; step < 2; ++step) {
        rb_stats stats{};
        buffer.statistics(stats);
        std::vector<uint64_t> ids;
        for (uint64_t draw = 0; draw < stats.pending; ++draw) {
            rb_records records{};
            buffer.receive(records);
            ids.assign(records.ids, records.ids + records.count);
            rb_release(records.lease);
        }
        add(buffer, 5, step);
        buffer.request(4);
        const std::vector<std::byte> rows(ids.size() * ROW_BYTES[VALUE]);
        try {
            buffer.update(VALUE, ids.size(), ids.data(), rows.data());
        } catch (const Error &error) {
            require(error.status == RB_INVALID, error.what());  // names of other ranks
        }
    }
    buffer.copy();
}

// The shards of rank 1 of two.
class Others {
  public:
    Others() {
        for (uint8_t policies = 0; policies < NUM_POLICIES; ++policies)
            write_saved(path(policies), of_two(policies, 1));
    }
    std::string path(uint8_t policies) const { return folder_ / std::to_string(policies % NUM_POLICIES); }

  private:
    const test::Folder folder_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const File fuzzed;
    static const Others others;
    Input in(data, bytes);
    const uint8_t how = in.byte();
    fuzzed.write(in.rest(), in.left());
    Buffer buffer(options(0, 1, how), nullptr);
    std::vector<std::string> paths{fuzzed.path()};
    if (how & TWO_RANKS) paths.push_back(others.path(how));
    try {
        for (uint64_t n : buffer.load(paths)) buffer.request(n);
    } catch (const Error &error) {
        require(error.status == RB_INVALID, error.what());
    }
    use(buffer);
    return 0;
}
