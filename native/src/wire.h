// What ranks say to each other. All ranks are of the same byte order and the same build.
#pragma once

#include <array>
#include <cstdint>

namespace replay {

using Token = std::array<uint8_t, 16>;  // which only the ranks of one job know

enum class Kind : uint32_t {
    request,  // sequence: of the draw; n: its size; updates: sent to this peer so far; stored: records of the shard;
              // body: ClassCount for each class whose number has changed since the request before
    records,  // sequence: of the draw; n: records in this message; body: their rows in the draw [n] u32 (filled up to 8
              // bytes), their names [n] u64, and per field its rows [n][row_bytes]
    update,   // sequence: from 1; n: records; field; body: names [n] u64, rows [n][row_bytes]
    finished,  // sequence: requests made in all; else as a request of 0, for all that follow
    places,    // as `records`, without the rows: the receiver reads them where they lie, by the slots in their names
    taken,     // sequence: of the draw whose `places` were read
    left,      // has heard `finished` from everybody
    ping,
    pong,
    failed,  // n: bytes of the body: what went wrong, in words; the source will make no more draws
};

struct Header {
    Token token;
    Kind kind;
    uint32_t source;
    uint64_t sequence = 0, n = 0, updates = 0, stored = 0;
    uint32_t field = 0;
    uint32_t reads = 0;  // with `request`: whether the source reads this rank's shard itself
};

struct ClassCount {
    uint32_t label, count;
};

}  // namespace replay
