// What the other ranks have asked for and have told. Not synchronised: Buffer guards them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "wire.h"

namespace replay {

struct Request {
    uint64_t n = 0, updates = 0, stored = 0;
    std::vector<ClassCount> counts;
};

struct Update {
    uint32_t field;
    std::vector<std::byte> names_and_rows;
    uint64_t n;
};

struct Peer {
    std::map<uint64_t, Request> requests;  // by number of the draw, those not served yet
    std::map<uint64_t, Update> updates;    // by number, those not applied yet
    uint64_t updates_received = 0, updates_applied = 0, updates_sent = 0;
    std::optional<uint64_t> finished_after;  // number of requests it made in all
    Request last;                            // in place of those that it does not make any more
    bool left = false, lost = false;
    bool reads = false;     // whether it reads this rank's shard itself
    uint64_t reading = 0;   // messages `places` that it has not answered
    uint64_t capacity = 0;  // of its shard
    std::chrono::steady_clock::time_point heard;
};

class Peers {
  public:
    // `rank`: this one; its own entry holds its updates.
    Peers(uint32_t rank, uint32_t ranks) : rank_(rank), peers_(ranks) {}

    Peer &operator[](uint32_t rank) { return peers_[rank]; }
    const Peer &operator[](uint32_t rank) const { return peers_[rank]; }
    uint32_t ranks() const { return static_cast<uint32_t>(peers_.size()); }

    // Whether draw `sequence` can be made as far as that rank is concerned.
    bool has_asked(uint32_t rank, uint64_t sequence) const;
    bool all_have_asked(uint64_t sequence) const;
    // What it asked for; of a rank that has finished an empty draw.
    const Request &request(uint32_t rank, uint64_t sequence) const;
    bool others(const std::function<bool(const Peer &)> &condition) const;
    // Throw RB_PEER for what was said before, or contradicts it; `served` draws are made.
    void take_request(uint32_t rank, uint64_t sequence, Request &&request, uint64_t served);
    void take_update(uint32_t rank, uint64_t number, Update &&update);
    void take_finished(uint32_t rank, uint64_t requests, Request &&last, uint64_t served);

  private:
    const uint32_t rank_;
    std::vector<Peer> peers_;
};

}  // namespace replay
