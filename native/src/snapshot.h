// What a shard is in a file.
#pragma once

#include <string>
#include <vector>

#include "file.h"
#include "shard.h"

namespace replay {

// What has to be equal for a saved shard to belong to a buffer, in words.
struct About {
    uint64_t capacity;  // of this rank's shard
    uint64_t ranks, rank, seed;
    std::string policies;  // insertion, sampling and their options, classes, fields
};

struct SavedDraw {
    uint64_t n, count;
    std::vector<uint64_t> ids;
    std::vector<float> weights;
    std::vector<Rows> columns;  // [fields][count * row_bytes]
};

// What was replaced since the last request of the rank that asked for it: no draw has seen it, wherever it is stored.
struct SavedUpdate {
    uint64_t field;
    std::vector<uint64_t> ids;
    std::vector<std::byte> rows;
};

struct Saved {
    About about;
    uint64_t requested;
    double wait_seconds;
    InsertionState insertion;
    std::vector<Slot> stored;
    std::vector<std::vector<Slot>> members;
    std::vector<uint64_t> ids;
    std::vector<Rows> columns;  // [fields][stored * row_bytes], in the order of `stored`
    std::vector<SavedDraw> draws;
    std::vector<SavedUpdate> updates;
};

// What a file has to fit: the buffer that reads it.
struct Expected {
    std::string policies;
    const std::vector<FieldInfo> &fields;
    uint32_t num_classes, label_field;
};

void write_saved(const std::string &path, const Saved &saved);
// Throws unless the file is whole and all that it says can be true of a shard of such a buffer: whatever passes may be
// used without further checks. Of a buffer with other policies only `about` is read.
Saved read_saved(const std::string &path, const Expected &expected);

}  // namespace replay
