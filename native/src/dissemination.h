// How every rank learns what has changed on all: Bruck et al. 1997 (Efficient Algorithms for All-to-All Communications
// in Multiport Message-Passing Systems), which is also the dissemination barrier of Hensgen, Finkel and Manber 1988. In
// round i each rank sends what it knows to the rank 2^i further on, once it has heard of the rounds before; after
// ceil(log2 ranks) rounds each has heard of all. So a draw that is `complete` here was announced by every rank.
// Not synchronised: Buffer guards it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "wire.h"

namespace replay {

struct Change : ChangeHead {
    std::vector<ClassCount> counts;
};
using Changes = std::vector<Change>;

class Dissemination {
  public:
    // What is to be sent now.
    struct Letter {
        uint32_t peer, round;
        uint64_t sequence;
        Changes changes;
    };
    using Letters = std::vector<Letter>;

    Dissemination(uint32_t rank, uint32_t ranks);

    // Of this rank, none if nothing has changed: once for each draw.
    Letters announce(uint64_t sequence, std::optional<Change> &&own);
    // From rank `from(round)`; false for what came before.
    bool take(uint64_t sequence, uint32_t round, Changes &&changes, Letters &letters);
    // Go on as if all had said that nothing has changed.
    Letters give_up(uint64_t sequence);
    bool complete(uint64_t sequence) const;
    // Of all ranks, this one's too, when it is complete; some may come twice. Forgets the draw.
    Changes collect(uint64_t sequence);

    // One more than the last draw that any rank has spoken of here; 0 if there is none.
    uint64_t heard_up_to() const { return draws_.empty() ? 0 : draws_.rbegin()->first + 1; }
    uint32_t rounds() const { return rounds_; }
    uint32_t to(uint32_t round) const { return after(rank_, uint64_t{1} << round); }
    uint32_t from(uint32_t round) const { return source_of(rank_, round); }
    uint32_t source_of(uint32_t rank, uint32_t round) const { return after(rank, ranks_ - (uint64_t{1} << round)); }
    // Whether a rank may tell of these in that round: it has heard of the 2^round up to itself.
    bool may_tell(uint32_t rank, uint32_t round, const ChangeHead &of) const;
    // All that this rank sends to or hears from.
    std::vector<uint32_t> neighbours() const;

    bool announced(uint64_t sequence) const;
    uint32_t missing(uint64_t sequence) const;  // bit i: of round i

  private:
    struct Gathered {
        bool announced = false;
        uint32_t heard = 0;  // bit i: of round i
        uint32_t sent = 0;   // rounds
        std::vector<Changes> rounds;
        Changes own;
    };

    uint32_t after(uint32_t rank, uint64_t steps) const { return static_cast<uint32_t>((rank + steps) % ranks_); }
    uint32_t all() const { return static_cast<uint32_t>((uint64_t{1} << rounds_) - 1); }
    Gathered &at(uint64_t sequence);
    void send(uint64_t sequence, Gathered &gathered, Letters &letters) const;
    static Changes joined(const Gathered &gathered, uint32_t rounds);

    const uint32_t rank_, ranks_;
    uint32_t rounds_ = 0;
    std::map<uint64_t, Gathered> draws_;
};

}  // namespace replay
