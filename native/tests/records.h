// Records whose fields all follow from a number, so that any mixture of two is found out.
#pragma once

#include <cstring>
#include <set>
#include <unordered_set>
#include <vector>

#include "../src/buffer.h"
#include "../src/error.h"
#include "../src/file.h"
#include "check.h"

namespace replay::test {

constexpr uint64_t VERSIONS = 1 << 16;  // of a record's field `value`, the one that tests change
enum : uint32_t { Y, NUMBER, ODD, WIDE, VALUE, NUM_FIELDS };

inline uint64_t mixed(uint64_t number) {
    number = (number ^ number >> 31) * 0x7fb5d329728ea185;
    number = (number ^ number >> 27) * 0x81dadef4bc2dd44d;
    return number ^ number >> 33;
}

// Records of one rank have numbers of their own.
inline uint64_t number_of(uint32_t rank, uint64_t count) { return uint64_t{rank} << 32 | count; }

struct Shape {
    uint32_t num_classes = 7;
    size_t wide_bytes = 120;  // a multiple of 8
};

struct Policies {
    std::string insertion, sampling;
    PolicyOptions options;
    void apply(Options &to) const {
        to.insertion = insertion;
        to.sampling = sampling;
        to.policy_options = options;
    }
};
inline const Policies POLICIES[] = {{"reservoir", "uniform", {}},
                                    {"class_balanced", "class_balanced", {}},
                                    {"candidates", "class_balanced", {{"candidates", 3}}}};

inline std::vector<FieldInfo> fields(const Shape &shape) {
    return {{"y", 8}, {"number", 8}, {"odd", 5}, {"wide", shape.wide_bytes}, {"value", 8}};
}

constexpr Token TOKEN{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

inline Options options(uint32_t rank, uint32_t ranks, uint64_t capacity, const Shape &shape = {}) {
    return {capacity, 42, shape.num_classes, rank, ranks, Y, "reservoir", "uniform", {}, fields(shape), 30.0, TOKEN};
}

inline void fill_odd(uint64_t number, std::byte *odd) {
    const uint64_t bits = mixed(number + 1);
    std::memcpy(odd, &bits, 5);
}

inline void fill_wide(uint64_t number, std::byte *wide, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t bits = mixed(number) + i;
        std::memcpy(wide + i, &bits, 8);
    }
}

struct Batch {
    Batch(const Shape &shape, const std::vector<uint64_t> &numbers)
        : number(numbers), odd(numbers.size() * 5), wide(numbers.size() * shape.wide_bytes) {
        for (size_t i = 0; i < numbers.size(); ++i) {
            y.push_back(static_cast<int64_t>(mixed(numbers[i]) % shape.num_classes));
            value.push_back(numbers[i] * VERSIONS);
            fill_odd(numbers[i], odd.data() + i * 5);
            fill_wide(numbers[i], wide.data() + i * shape.wide_bytes, shape.wide_bytes);
        }
        columns = {y.data(), number.data(), odd.data(), wide.data(), value.data()};
    }

    std::vector<int64_t> y;
    std::vector<uint64_t> number;
    std::vector<std::byte> odd, wide;
    std::vector<uint64_t> value;
    std::vector<const void *> columns;
};

inline void add(Buffer &buffer, const std::vector<uint64_t> &numbers, const Shape &shape = {}) {
    const Batch batch(shape, numbers);
    buffer.add(numbers.size(), batch.columns.data());
}

// The next `n` numbers of a rank.
inline std::vector<uint64_t> numbers(uint32_t rank, uint64_t first, uint64_t n) {
    std::vector<uint64_t> result;
    for (uint64_t i = 0; i < n; ++i) result.push_back(number_of(rank, first + i));
    return result;
}

// A draw that was received: checked, and given back when it goes out of scope.
class Received {
  public:
    explicit Received(Buffer &buffer, const Shape &shape = {}) {
        records_.size = sizeof records_;
        buffer.receive(records_);
        std::unordered_set<uint64_t> seen, names;
        std::vector<std::byte> odd(5), wide(shape.wide_bytes);
        for (uint64_t i = 0; i < records_.count; ++i) {
            const uint64_t number = this->number(i);
            CHECK_THAT(seen.insert(number).second, "record " << number << " came twice in draw " << sequence());
            CHECK_THAT(names.insert(id(i)).second, "name " << id(i) << " came twice in draw " << sequence());
            CHECK_EQUAL(column<int64_t>(Y)[i], static_cast<int64_t>(mixed(number) % shape.num_classes));
            fill_odd(number, odd.data());
            CHECK(std::memcmp(odd.data(), column<std::byte>(ODD) + 5 * i, 5) == 0);
            fill_wide(number, wide.data(), wide.size());
            CHECK(std::memcmp(wide.data(), column<std::byte>(WIDE) + wide.size() * i, wide.size()) == 0);
            CHECK_EQUAL(column<uint64_t>(VALUE)[i] / VERSIONS, number);
            CHECK(records_.weights[i] > 0);
        }
        for (uint32_t field = 0; field < NUM_FIELDS; ++field)
            CHECK_EQUAL(reinterpret_cast<uintptr_t>(records_.columns[field]) % 64, 0);
        row_bytes_ = {8, 8, 5, shape.wide_bytes, 8};
    }
    Received(const Received &) = delete;
    ~Received() { Staging::release(records_.lease); }

    uint64_t count() const { return records_.count; }
    uint64_t sequence() const { return records_.sequence; }
    uint64_t number(uint64_t i) const { return column<uint64_t>(NUMBER)[i]; }
    uint64_t version(uint64_t i) const { return column<uint64_t>(VALUE)[i] % VERSIONS; }
    uint64_t id(uint64_t i) const { return records_.ids[i]; }
    float weight(uint64_t i) const { return records_.weights[i]; }
    template <typename T> const T *column(uint32_t field) const {
        return static_cast<const T *>(records_.columns[field]);
    }

    std::set<uint64_t> all_numbers() const { return {column<uint64_t>(NUMBER), column<uint64_t>(NUMBER) + count()}; }
    // The name of a record that is in this draw.
    uint64_t name_of(uint64_t number) const {
        for (uint64_t i = 0; i < count(); ++i)
            if (this->number(i) == number) return id(i);
        failed(__FILE__, __LINE__, "record " + std::to_string(number) + " was not drawn");
    }

    // Every bit of the draw.
    uint64_t digest(uint64_t before) const {
        Checksum checksum;
        checksum.take(&before, sizeof before);
        checksum.take(&records_.count, sizeof records_.count);
        checksum.take(&records_.sequence, sizeof records_.sequence);
        checksum.take(records_.ids, count() * sizeof *records_.ids);
        checksum.take(records_.weights, count() * sizeof *records_.weights);
        for (uint32_t field = 0; field < NUM_FIELDS; ++field)
            checksum.take(records_.columns[field], count() * row_bytes_[field]);
        return checksum.value();
    }

  private:
    rb_records records_{};
    std::vector<size_t> row_bytes_;
};

}  // namespace replay::test
