// What this rank knows of each of the others.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace replay {

// What a rank has answered when it was asked whether it lives.
struct Answer {
    uint64_t sequence = UINT64_MAX;  // of the draw that it was asked about
    uint32_t missing = 0;            // bit i: it waits for round i of the dissemination
    uint32_t state = 0;              // `field` of a pong, see wire.h
};

struct Peer {
    uint64_t updates_sent = 0;
    uint64_t to_be_sent = 0;  // messages to it that read from the shard still, or let it read there
    uint64_t reading = 0;     // of these, messages `places` that it has not answered
    uint64_t capacity = 0;    // of its shard
    bool reads = false;       // whether it reads this rank's shard itself
    bool finished = false, lost = false;
    Answer answer;
    std::chrono::steady_clock::time_point heard;
    std::optional<std::chrono::steady_clock::time_point> asked;  // whether it lives, without an answer since then
};

}  // namespace replay
