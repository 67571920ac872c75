// Ranks as threads of one process: a transport over queues that can be slow, can let messages overtake each other and
// can fall silent. It behaves like UCX where that matters: the pieces of a message are read when the sender's thread
// gets round to it, by `progress`, or at once within `send`; events come under the transport's own lock.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "../src/buffer.h"
#include "../src/error.h"
#include "check.h"

namespace replay::test {

// How long a message stays with its sender, and then how long it is on its way.
struct Delay {
    std::chrono::microseconds sender{0}, way{0};
};
using Weather = std::function<Delay(uint32_t from, uint32_t to, const Header &header)>;

// Most messages get through at once, some stay behind and are overtaken; by chance, but the same for the same seed,
// rank and number of the message.
inline Weather stormy(uint64_t seed, int most_microseconds) {
    struct Counts {
        std::mutex mutex;
        std::vector<uint64_t> of_rank = std::vector<uint64_t>(4096);
    };
    return [counts = std::make_shared<Counts>(), seed, most_microseconds](uint32_t from, uint32_t, const Header &) {
        uint64_t number;
        {
            std::lock_guard lock(counts->mutex);
            number = counts->of_rank[from]++;
        }
        const auto random = philox({static_cast<uint32_t>(number), from, 0, 0}, seed);
        const auto late = [&](uint32_t chance, uint32_t bits) {
            return std::chrono::microseconds(chance % 3 ? 0 : bits % static_cast<uint32_t>(most_microseconds));
        };
        return Delay{late(random[0], random[1]), late(random[2], random[3])};
    };
}

class Network {
  public:
    // `one_host`: ranks may read each other's shards where they lie.
    explicit Network(uint32_t ranks, Weather weather = nullptr, bool one_host = false)
        : weather_(std::move(weather)), one_host_(one_host), knows_(size_t{ranks} * ranks) {
        for (uint32_t rank = 0; rank < ranks; ++rank) boxes_.push_back(std::make_unique<Box>());
    }

    MakeTransport transports() {
        return [this](uint32_t rank, uint32_t, bool, Transport::Events events) {
            return std::make_unique<LocalTransport>(*this, rank, std::move(events));
        };
    }

    // A message of whoever it may be.
    void slip_in(uint32_t to, std::vector<std::byte> header, std::vector<std::byte> body = {}) {
        Box &box = *boxes_[to];
        std::lock_guard lock(box.mutex);
        box.letters.push_back({Clock::now(), to, std::move(header), std::move(body)});
        box.changed.notify_all();
    }

    // From now on nothing comes from that rank or gets to it, and nobody is told.
    void silence(uint32_t rank) { boxes_[rank]->silent = true; }

  private:
    using Clock = std::chrono::steady_clock;

    struct Letter {
        Clock::time_point due;
        uint32_t from;
        std::vector<std::byte> header, body;
        bool farewell = false;  // instead of a message: the sender is gone
    };

    struct Box {
        std::mutex mutex;
        std::condition_variable changed;
        std::vector<Letter> letters;
        bool woken = false;
        std::atomic<bool> silent{false};
    };

    class LocalTransport final : public Transport {
      public:
        LocalTransport(Network &network, uint32_t rank, Events events)
            : network_(network), box_(*network.boxes_[rank]), rank_(rank), events_(std::move(events)), address_(4) {
            std::memcpy(address_.data(), &rank, sizeof rank);
        }

        ~LocalTransport() override {
            for (uint32_t peer = 0; peer < network_.boxes_.size(); ++peer)
                if (network_.knows(peer, rank_)) post(peer, {Clock::now(), rank_, {}, {}, true});
        }

        const std::vector<std::byte> &address() const override { return address_; }

        void connect(const std::vector<std::vector<std::byte>> &addresses, const std::vector<uint32_t> &near) override {
            CHECK_EQUAL(addresses.size(), network_.boxes_.size());
            for (uint32_t rank = 0; rank < addresses.size(); ++rank) {
                uint32_t there;
                CHECK_EQUAL(addresses[rank].size(), sizeof there);
                std::memcpy(&there, addresses[rank].data(), sizeof there);
                CHECK_EQUAL(there, rank);
            }
            for (uint32_t peer : near) network_.knows(rank_, peer) = true;
        }

        bool shares_memory() const override { return network_.one_host_; }

        void send(uint32_t peer, std::unique_ptr<Message> message) override {
            Delay delay;
            Header header;
            CHECK_EQUAL(message->header.size(), sizeof header);
            std::memcpy(&header, message->header.data(), sizeof header);
            if (network_.weather_) delay = network_.weather_(rank_, peer, header);
            network_.knows(rank_, peer) = true;
            {
                std::lock_guard lock(mutex_);
                if (delay.sender.count() == 0) return carry(peer, *message, delay.way);
                ++unsent_;
                waiting_.push_back({Clock::now() + delay.sender, delay.way, peer, std::move(message)});
            }
            wake();
        }

        bool progress() override {
            std::lock_guard lock(mutex_);
            bool any = false;
            const auto now = Clock::now();
            for (size_t i = 0; i < waiting_.size();) {
                if (waiting_[i].due > now) {
                    ++i;
                    continue;
                }
                Waiting next = std::move(waiting_[i]);
                waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(i));
                --unsent_;
                carry(next.peer, *next.message, next.way);
                any = true;
            }
            std::vector<Letter> arrived;
            {
                std::lock_guard box_lock(box_.mutex);
                const auto late = std::stable_partition(box_.letters.begin(), box_.letters.end(),
                                                        [&](const Letter &letter) { return letter.due <= now; });
                std::move(box_.letters.begin(), late, std::back_inserter(arrived));
                box_.letters.erase(box_.letters.begin(), late);
            }
            std::stable_sort(arrived.begin(), arrived.end(),
                             [](const Letter &a, const Letter &b) { return a.due < b.due; });
            for (const Letter &letter : arrived) {
                any = true;
                if (letter.farewell) events_.lost(letter.from, "Connection reset");
                else
                    events_.message(letter.header.data(), letter.header.size(), letter.body.data(), letter.body.size());
            }
            return any;
        }

        void wait(int milliseconds) override {
            constexpr auto NEVER = Clock::time_point::max();
            auto limit = milliseconds < 0 ? NEVER : Clock::now() + std::chrono::milliseconds(milliseconds);
            {
                std::lock_guard lock(mutex_);
                for (const Waiting &waiting : waiting_) limit = std::min(limit, waiting.due);
            }
            std::unique_lock lock(box_.mutex);
            while (!box_.woken) {
                auto next = limit;
                for (const Letter &letter : box_.letters) next = std::min(next, letter.due);
                if (next <= Clock::now()) break;
                if (next == NEVER) box_.changed.wait(lock);
                else box_.changed.wait_until(lock, next);
            }
            box_.woken = false;
        }

        void wake() override {
            std::lock_guard lock(box_.mutex);
            box_.woken = true;
            box_.changed.notify_all();
        }

        size_t unsent() const override { return unsent_; }

      private:
        struct Waiting {
            Clock::time_point due;
            std::chrono::microseconds way;
            uint32_t peer;
            std::unique_ptr<Message> message;
        };

        // Only here are the pieces of the body read.
        void carry(uint32_t peer, Message &message, std::chrono::microseconds way) {
            Letter letter{Clock::now() + way, rank_, message.header, {}};
            for (const Span &piece : message.body) {
                const auto *bytes = static_cast<const std::byte *>(piece.data);
                letter.body.insert(letter.body.end(), bytes, bytes + piece.bytes);
            }
            if (message.sent) message.sent();
            post(peer, std::move(letter));
        }

        void post(uint32_t peer, Letter letter) {
            Box &box = *network_.boxes_[peer];
            if (box_.silent || box.silent) return;
            std::lock_guard lock(box.mutex);
            if (letter.farewell)  // after all that was sent before it
                for (const Letter &other : box.letters)
                    if (other.from == rank_) letter.due = std::max(letter.due, other.due);
            box.letters.push_back(std::move(letter));
            box.changed.notify_all();
        }

        Network &network_;
        Box &box_;
        const uint32_t rank_;
        const Events events_;
        std::vector<std::byte> address_;
        std::recursive_mutex mutex_;  // an event may send
        std::vector<Waiting> waiting_;
        std::atomic<size_t> unsent_{0};
    };

    // Whether `rank` hears of the loss of `peer`.
    std::atomic<bool> &knows(uint32_t rank, uint32_t peer) { return knows_[size_t{rank} * boxes_.size() + peer]; }

    const Weather weather_;
    const bool one_host_;
    std::vector<std::unique_ptr<Box>> boxes_;
    std::vector<std::atomic<bool>> knows_;
};

// The ranks of a job, each with a buffer, all connected.
class Job {
  public:
    Job(const std::vector<Options> &all, Weather weather = nullptr, bool one_host = false)
        : network(static_cast<uint32_t>(all.size()), std::move(weather), one_host) {
        for (const Options &one : all) buffers.push_back(std::make_unique<Buffer>(one, network.transports()));
        if (all.size() == 1) return;
        std::vector<std::vector<std::byte>> addresses;
        for (const auto &buffer : buffers) addresses.push_back(buffer->address());
        for (const auto &buffer : buffers) buffer->connect(addresses);
    }

    // Runs a function on each rank, in a thread of its own.
    void each(const std::function<void(uint32_t rank, Buffer &buffer)> &run) {
        std::vector<std::thread> threads;
        for (uint32_t rank = 0; rank < buffers.size(); ++rank)
            threads.emplace_back([&, rank] {
                try {
                    run(rank, *buffers[rank]);
                } catch (const Error &error) {
                    failed(__FILE__, __LINE__,
                           "rank " + std::to_string(rank) + " failed with status " + std::to_string(error.status) +
                               ": " + error.what());
                }
            });
        for (std::thread &thread : threads) thread.join();
    }

    void close() {
        each([](uint32_t, Buffer &buffer) { buffer.close(); });
    }

    Network network;  // before the buffers, which it outlives
    std::vector<std::unique_ptr<Buffer>> buffers;
};

}  // namespace replay::test
