// What ranks say to each other. All ranks are of the same byte order and the same build.
#pragma once

#include <array>
#include <cstdint>

namespace replay {

using Token = std::array<uint8_t, 16>;  // which only the ranks of one job know

enum class Kind : uint32_t {
    changes,  // sequence: of the draw; n: round of the dissemination; field: 1 with the farewell; body: what has
              // changed, see ChangeHead
    records,  // sequence: of the draw; n: records in this message; body: their rows in the draw [n] u32 (filled up to 8
              // bytes), their names [n] u64, and per field its rows [n][row_bytes]
    update,   // sequence: from 1; draw: the first that sees it; n: records; field; body: names [n] u64, rows
              // [n][row_bytes]
    noted,    // draw: of an update that has come
    places,   // as `records`, without the rows: the receiver reads them where they lie, by the slots in their names
    taken,    // sequence: of the draw whose `places` were read
    reads,    // the source reads this rank's shard itself
    ping,     // sequence: of the draw that the source waits for
    pong,    // sequence: as in the ping; n: bit i: round i of its dissemination has not come to the source; field: 0 if
             // the source has announced it, 1 if it has not, 2 + r if it waits for something of rank r first
    failed,  // n: bytes of the body: what went wrong, in words; field: the rank that found it; the source will make no
             // more draws
};

struct Header {
    Token token;
    Kind kind;
    uint32_t source;
    uint64_t sequence = 0, n = 0, draw = 0;
    uint32_t field = 0, unused = 0;
};

struct ClassCount {
    uint32_t label, count;
};

// What has changed on ranks `first` to `first` + `ranks` - 1 since the draw before, alike on all of them. One rank
// alone where classes are counted: `classes` of ClassCount follow, those whose number has changed.
struct ChangeHead {
    uint32_t first = 0, ranks = 0;
    uint32_t n = 0;         // size of the draw
    uint32_t stored = 0;    // records of the shard
    uint32_t finished = 0;  // 1: makes this draw and those to come no more (so n is 0)
    uint32_t classes = 0;
};

}  // namespace replay
