// Shards that other processes of this host may read: the reader copies rows straight out of them, where a message would
// be copied into the transport's memory and out again.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "memory.h"

namespace replay {

// How another process finds a piece of shared memory. There is no name that a killed process could leave behind: the
// system shows open files under /proc, and gives them to processes of the same user.
struct MappingAddress {
    int32_t process = 0, descriptor = -1;
    SharedToken token{};  // stands behind the memory: on another host another file may have the same number
};

MappingAddress mapping_address(const Memory &memory);

// Somebody else's memory, to read: `bytes` and the token behind them. Without data where it cannot be had: another
// host, another user, no /proc.
Memory map_other(const MappingAddress &address, uint64_t bytes);

}  // namespace replay
