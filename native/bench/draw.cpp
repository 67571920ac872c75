// What a draw costs without Python: rb_request, rb_receive and rb_release beside a plain copy of as many rows in random
// order into memory that is used again. Both in turn, the ratio round by round. One rank.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "shard.h"

namespace {

template <typename Call> double seconds(int times, Call call) {
    const auto started = Clock::now();
    for (int i = 0; i < times; ++i) call();
    return std::chrono::duration<double>(Clock::now() - started).count() / times;
}

struct Column {
    uint64_t bytes;
    std::vector<std::byte> pool, out;
};

void measure(uint64_t picture_bytes, uint64_t capacity, uint64_t n) {
    const uint64_t row_bytes[] = {picture_bytes, 8, 8, 400};
    const char *names[] = {"x", "y", "task", "logits"};
    std::vector<rb_field> fields;
    for (int i = 0; i < 4; ++i) fields.push_back({sizeof(rb_field), names[i], row_bytes[i]});
    rb_buffer *buffer = shard(capacity, fields);

    std::vector<Column> columns;
    for (uint64_t bytes : row_bytes)
        columns.push_back({bytes, std::vector<std::byte>(capacity * bytes), std::vector<std::byte>(n * bytes)});
    const void *rows[4];
    for (uint64_t record = 0; record < capacity; ++record) {
        for (size_t i = 0; i < columns.size(); ++i) {
            std::byte *row = columns[i].pool.data() + record * columns[i].bytes;
            std::memset(row, static_cast<int>(record % 251), columns[i].bytes);
            rows[i] = row;
        }
        const int64_t label = static_cast<int64_t>(record % 10);
        std::memcpy(columns[1].pool.data() + record * 8, &label, 8);
        check(rb_add(buffer, 1, rows));
    }

    std::mt19937 generator(1);
    std::vector<uint32_t> picks(4096);
    for (uint32_t &pick : picks) pick = generator() % capacity;
    size_t next = 0;
    const auto copy = [&] {
        next = (next + n) % (picks.size() - n);
        for (Column &column : columns)
            for (uint64_t i = 0; i < n; ++i)
                std::memcpy(column.out.data() + i * column.bytes, column.pool.data() + picks[next + i] * column.bytes,
                            column.bytes);
    };
    rb_records records{};
    records.size = sizeof records;
    const auto draw = [&] {
        check(rb_request(buffer, n));
        check(rb_receive(buffer, &records));
        rb_release(records.lease);
    };

    const int times = static_cast<int>(std::max<uint64_t>(4, (uint64_t{64} << 20) / (n * (picture_bytes + 416))));
    std::vector<double> ours, theirs, ratios;
    for (int round = 0; round < 12; ++round) {
        const double a = seconds(times, draw), b = seconds(times, copy);
        if (round == 0) continue;  // warms up
        ours.push_back(a);
        theirs.push_back(b);
        ratios.push_back(a / b);
    }
    // What was drawn is what was stored: task and picture of a record are the same byte.
    check(rb_request(buffer, n));
    check(rb_receive(buffer, &records));
    for (uint64_t i = 0; i < n; ++i) {
        const auto *picture = static_cast<const unsigned char *>(records.columns[0]) + i * picture_bytes;
        const auto *task = static_cast<const unsigned char *>(records.columns[2]) + i * 8;
        if (records.count != n || picture[0] != task[0] || picture[picture_bytes - 1] != task[0]) {
            std::fprintf(stderr, "row %llu of the draw is wrong\n", static_cast<unsigned long long>(i));
            std::exit(1);
        }
    }
    rb_release(records.lease);
    check(rb_close(buffer));
    rb_destroy(buffer);
    std::printf("  %14llu %6llu %12.1f %12.1f %8.3f\n", static_cast<unsigned long long>(picture_bytes),
                static_cast<unsigned long long>(n), 1e6 * median(ours), 1e6 * median(theirs), median(ratios));
}

}  // namespace

int main() {
    std::printf("picture, bytes      n     draw, us   memcpy, us    ratio\n");
    for (uint64_t n : {uint64_t{32}, uint64_t{128}}) {
        for (uint64_t bytes : {uint64_t{3072}, uint64_t{12288}}) measure(bytes, 5000, n);
        for (uint64_t bytes : {uint64_t{150528}, uint64_t{602112}}) measure(bytes, 1000, n);
    }
}
