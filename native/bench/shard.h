// What the benchmarks share: an empty shard of one rank, whose second field is the label.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../include/replay.h"

using Clock = std::chrono::steady_clock;

inline void check(int status) {
    if (status == RB_OK) return;
    std::fprintf(stderr, "%s\n", rb_error());
    std::exit(1);
}

inline double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

inline rb_buffer *shard(uint64_t capacity, const std::vector<rb_field> &fields) {
    rb_options options{};
    options.size = sizeof options;
    options.capacity = capacity;
    options.num_classes = 10;
    options.insertion = "reservoir";
    options.sampling = "uniform";
    options.ranks = 1;
    options.fields = fields.data();
    options.num_fields = static_cast<uint32_t>(fields.size());
    options.label_field = 1;
    options.timeout_seconds = 30;
    rb_buffer *buffer;
    check(rb_create(&options, &buffer));
    return buffer;
}
