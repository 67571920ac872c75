// What it costs to take a copy of a full shard, against memcpy of as many bytes into fresh memory and into memory that
// is used again; and to write it, which no training step waits for.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "shard.h"

namespace {

double seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

// A full shard with pictures; reservoir sampling has replaced some of its records.
rb_buffer *full(uint64_t capacity, uint64_t picture_bytes) {
    rb_buffer *buffer = shard(capacity, {{sizeof(rb_field), "x", picture_bytes}, {sizeof(rb_field), "y", 8}});
    constexpr uint64_t BATCH = 64;
    const std::vector<std::byte> pictures(BATCH * picture_bytes, std::byte{7});
    std::vector<int64_t> labels(BATCH);
    for (uint64_t i = 0; i < BATCH; ++i) labels[i] = static_cast<int64_t>(i % 10);
    const void *const columns[] = {pictures.data(), labels.data()};
    for (uint64_t offered = 0; offered < capacity + capacity / 4; offered += BATCH)
        check(rb_add(buffer, BATCH, columns));
    return buffer;
}

void measure(const char *path, uint64_t capacity, uint64_t picture_bytes) {
    rb_buffer *buffer = full(capacity, picture_bytes);
    const size_t bytes = capacity * (picture_bytes + 8);
    std::vector<std::byte> pool(bytes, std::byte{1}), again(bytes);
    std::vector<double> copies, fresh, used, written;
    for (int round = 0; round < 7; ++round) {
        rb_copy *copy;
        auto started = Clock::now();
        check(rb_take_copy(buffer, &copy));
        copies.push_back(seconds(started));
        if (round < 3) {
            started = Clock::now();
            check(rb_write_copy(copy, path));
            written.push_back(seconds(started));
        }
        rb_free_copy(copy);
        started = Clock::now();
        auto *memory = static_cast<std::byte *>(std::malloc(bytes));
        std::memcpy(memory, pool.data(), bytes);
        fresh.push_back(seconds(started));
        std::free(memory);
        started = Clock::now();
        std::memcpy(again.data(), pool.data(), bytes);
        used.push_back(seconds(started));
    }
    std::remove(path);
    check(rb_close(buffer));
    rb_destroy(buffer);
    const auto rate = [&](const std::vector<double> &times) {
        return 1e-9 * static_cast<double>(bytes) / median(times);
    };
    std::printf("  %8.1f MB of %6llu bytes  %8.2f %8.2f %8.2f %8.2f\n", 1e-6 * static_cast<double>(bytes),
                static_cast<unsigned long long>(picture_bytes), rate(copies), rate(fresh), rate(used), rate(written));
}

}  // namespace

int main(int count, char **words) {
    const char *path = count > 1 ? words[1] : "/tmp/replay-bench-copy";
    std::printf("GB/s                                 copy    fresh     used    write\n");
    measure(path, 5000, 3072);
    measure(path, 50000, 3072);
    measure(path, 1000, 150528);
    measure(path, 4000, 150528);
}
