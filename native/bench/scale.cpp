// What a draw costs a rank in a job of many ranks: messages, bytes, picks, CPU time and memory, per rank and step, in
// the steady state (all shards full). The ranks are threads of this process, joined by the transport of the tests, so
// the messages are those of a real job; the CPU time includes that transport and the callers' own copies.
//
// most: picks of the rank that computes most. p: that of a chi-square test that every record was drawn with the same
// chance, over all ranks.
//
//     scale [SAMPLING [RANKS ...]]      SAMPLING: uniform (or class_balanced); RANKS: 2 4 16 64 256 1024
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../tests/local_transport.h"
#include "../tests/records.h"
#include "../tests/statistics.h"

namespace {

using namespace replay;
using namespace replay::test;

constexpr uint64_t DRAW = 32, BATCH = 32, CAPACITY = 64;
const Shape SHAPE{10, 64};

double cpu_seconds() {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval &time) { return static_cast<double>(time.tv_sec) + 1e-6 * time.tv_usec; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double resident_bytes() {
    std::ifstream file("/proc/self/statm");
    double all, resident;
    file >> all >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// All wait until all have come.
class Meeting {
  public:
    explicit Meeting(uint32_t ranks) : ranks_(ranks) {}
    void wait() {
        std::unique_lock lock(mutex_);
        const uint64_t round = come_++ / ranks_;
        if (come_ % ranks_ == 0) changed_.notify_all();
        while (come_ / ranks_ == round) changed_.wait(lock);
    }

  private:
    const uint32_t ranks_;
    std::mutex mutex_;
    std::condition_variable changed_;
    uint64_t come_ = 0;
};

void measure(const std::string &sampling, uint32_t ranks) {
    const uint64_t steps = ranks > 300 ? 10 : 50;
    std::vector<std::vector<uint32_t>> counts(ranks, std::vector<uint32_t>(ranks * CAPACITY));
    const double memory = resident_bytes();
    std::vector<Options> all;
    for (uint32_t rank = 0; rank < ranks; ++rank) {
        all.push_back(options(rank, ranks, CAPACITY, SHAPE));
        all.back().sampling = sampling;
        all.back().timeout_seconds = 600;
    }
    auto *job = new Job(all);  // never freed: the process ends
    Meeting meeting(ranks);
    std::vector<rb_stats> before(ranks), after(ranks);
    double cpu = 0, peak = 0;
    std::vector<std::thread> threads;
    for (uint32_t rank = 0; rank < ranks; ++rank)
        threads.emplace_back([&, rank] {
            Buffer &buffer = *job->buffers[rank];
            uint64_t number = 0;
            std::vector<uint32_t> &count = counts[rank];
            const auto step = [&] {
                add(buffer, numbers(rank, number, BATCH), SHAPE);
                number += BATCH;
                buffer.request(DRAW);
                rb_records records{};
                buffer.receive(records);
                for (uint64_t i = 0; i < records.count; ++i) {
                    const uint64_t id = records.ids[i];
                    ++count[RecordId::rank(id) * CAPACITY + RecordId::slot(id)];
                }
                Staging::release(records.lease);
            };
            for (int filling = 0; filling < 3; ++filling) step();
            std::fill(count.begin(), count.end(), 0);
            meeting.wait();
            if (rank == 0) cpu = cpu_seconds();
            buffer.statistics(before[rank]);
            meeting.wait();
            for (uint64_t k = 0; k < steps; ++k) step();
            meeting.wait();  // all draws are made and delivered
            buffer.statistics(after[rank]);
            meeting.wait();
            if (rank == 0) cpu = cpu_seconds() - cpu, peak = resident_bytes();
            meeting.wait();
        });
    for (std::thread &thread : threads) thread.join();
    double messages = 0, bytes = 0, picks = 0, most_picks = 0, own_thread = 0;
    for (uint32_t rank = 0; rank < ranks; ++rank) {
        messages += static_cast<double>(after[rank].messages_sent - before[rank].messages_sent);
        bytes += static_cast<double>(after[rank].bytes_sent - before[rank].bytes_sent);
        const auto own_picks = static_cast<double>(after[rank].picks - before[rank].picks);
        picks += own_picks;
        most_picks = std::max(most_picks, own_picks / static_cast<double>(steps));
        own_thread += after[rank].thread_cpu_seconds - before[rank].thread_cpu_seconds;
    }
    std::vector<uint64_t> sum(ranks * CAPACITY);
    for (const auto &count : counts)
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += count[i];
    // Under class_balanced the classes of the records would have to be counted: tests do.
    const double chance = sampling == "uniform" ? equal_chance_p_value(sum, steps * ranks, DRAW) : NAN;
    const double each = static_cast<double>(ranks) * static_cast<double>(steps);
    std::printf("%6u %10.1f %12.0f %10.0f %10.0f %14.1f %14.1f %12.1f %10.3f\n", ranks, messages / each, bytes / each,
                picks / each, most_picks, 1e6 * own_thread / each, 1e6 * cpu / each, (peak - memory) / 1024 / ranks,
                chance);
    std::fflush(stdout);
}

}  // namespace

int main(int count, char **words) {
    const std::string sampling = count > 1 ? words[1] : "uniform";
    std::vector<uint32_t> sizes;
    for (int i = 2; i < count; ++i) sizes.push_back(static_cast<uint32_t>(std::atoi(words[i])));
    if (sizes.empty()) sizes = {2, 4, 16, 64, 256, 1024};
    std::printf("draws of %" PRIu64 " under %s, %" PRIu64 " new records a step, shards of %" PRIu64
                ", %zu B a record\n",
                DRAW, sampling.c_str(), BATCH, CAPACITY, SHAPE.wide_bytes + 29);
    std::printf("%6s %10s %12s %10s %10s %14s %14s %12s %10s\n", "ranks", "messages", "bytes", "picks", "most",
                "thread us", "all CPU us", "memory KiB", "p");
    for (uint32_t ranks : sizes) measure(sampling, ranks);
    std::_Exit(0);
}
