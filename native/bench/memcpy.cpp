// How fast this machine copies: one block again and again (caches), rows of a large pool in order, and in random order,
// into memory that is used again. What a draw could cost at least.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

// Bytes per second of `copy(row)`, called for `rows` again and again; the best of some rounds.
template <typename Copy> double rate(const std::vector<uint32_t> &rows, size_t bytes, Copy copy) {
    double best = 0;
    for (int round = 0; round < 5; ++round) {
        size_t done = 0;
        const auto started = Clock::now();
        std::chrono::duration<double> took{};
        do {
            for (uint32_t row : rows) copy(row);
            done += rows.size() * bytes;
            took = Clock::now() - started;
        } while (took.count() < 0.05);
        best = std::max(best, static_cast<double>(done) / took.count());
    }
    return best;
}

}  // namespace

int main() {
    std::printf("GB/s of a copy, by bytes of a row        same row    in order   at random\n");
    for (size_t bytes : {size_t{3072}, size_t{12288}, size_t{150528}, size_t{602112}}) {
        const size_t pool_rows = (size_t{128} << 20) / bytes, out_rows = 64;
        std::vector<std::byte> pool(pool_rows * bytes, std::byte{1}), out(out_rows * bytes);
        std::mt19937 generator(1);
        std::vector<uint32_t> same(pool_rows), order(pool_rows), random(pool_rows);
        for (size_t i = 0; i < pool_rows; ++i) order[i] = static_cast<uint32_t>(i);
        random = order;
        std::shuffle(random.begin(), random.end(), generator);
        size_t next = 0;
        const auto copy = [&](uint32_t row) {
            std::memcpy(out.data() + next * bytes, pool.data() + row * bytes, bytes);
            next = (next + 1) % out_rows;
        };
        std::printf("  %38zu  %9.2f   %9.2f   %9.2f\n", bytes, 1e-9 * rate(same, bytes, copy),
                    1e-9 * rate(order, bytes, copy), 1e-9 * rate(random, bytes, copy));
    }
}
