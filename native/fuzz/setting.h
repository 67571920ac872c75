// What the fuzzers and the program that makes their first inputs agree on.
#pragma once

#include "../src/buffer.h"

namespace replay::fuzz {

constexpr uint32_t CLASSES = 3;
constexpr uint64_t CAPACITY = 6;
enum : uint32_t { Y, X, VALUE, FIELDS };
constexpr uint64_t ROW_BYTES[FIELDS] = {8, 5, 8};

// What an input of messages.cpp does next; the first byte of an input names the policies.
enum : uint8_t { ADD, REQUEST, UPDATE, RECEIVE, COPY, LOSE, ANNOUNCE, MESSAGE, ACTIONS };

inline const struct {
    const char *insertion, *sampling;
} POLICIES[] = {{"reservoir", "uniform"}, {"class_balanced", "class_balanced"}, {"candidates", "class_balanced"}};
constexpr uint8_t NUM_POLICIES = 3;

inline Options options(uint32_t rank, uint32_t ranks, uint8_t policies) {
    const auto &chosen = POLICIES[policies % NUM_POLICIES];
    PolicyOptions numbers;
    if (policies % NUM_POLICIES == 2) numbers["candidates"] = 2;
    std::vector<FieldInfo> fields{{"y", ROW_BYTES[Y]}, {"x", ROW_BYTES[X]}, {"value", ROW_BYTES[VALUE]}};
    return {CAPACITY, 1, CLASSES, rank, ranks, Y, chosen.insertion, chosen.sampling, numbers, fields, 1.0};
}

inline void add(Buffer &buffer, uint8_t count, uint8_t first) {
    std::vector<int64_t> labels(count);
    std::vector<uint64_t> values(count, first);
    for (uint8_t i = 0; i < count; ++i) labels[i] = (first + i) % CLASSES;
    const std::vector<std::byte> xs(count * ROW_BYTES[X], static_cast<std::byte>(first));
    const void *const columns[] = {labels.data(), xs.data(), values.data()};
    buffer.add(count, columns);
}

constexpr uint8_t TWO_RANKS = 128;  // in the first byte of an input of shards.cpp: it is the file of rank 0 of two

// What a rank of two could have saved.
inline Saved of_two(uint8_t policies, uint32_t rank) {
    Buffer buffer(options(0, 1, policies), nullptr);
    add(buffer, 5, 1);
    buffer.request(3);
    Saved saved = buffer.copy();
    saved.about.ranks = 2;
    saved.about.rank = rank;
    for (uint64_t &id : saved.ids)
        if (id) id |= RecordId::make(rank, 0, 0);
    const std::vector<uint64_t> ids{RecordId::make(0, 1, 1), RecordId::make(1, 2, 2)};
    saved.updates.push_back({VALUE, ids, std::vector<std::byte>(ids.size() * ROW_BYTES[VALUE])});
    return saved;
}

}  // namespace replay::fuzz
