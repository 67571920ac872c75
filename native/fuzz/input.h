// The bytes of a fuzzer, as numbers, and the other way round. Where they end everything is 0.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace replay::fuzz {

class Input {
  public:
    Input(const uint8_t *data, size_t bytes) : next_(data), left_(bytes) {}

    bool empty() const { return left_ == 0; }
    size_t left() const { return left_; }
    const uint8_t *rest() const { return next_; }
    uint8_t byte() {
        if (left_ == 0) return 0;
        --left_;
        return *next_++;
    }
    // Small ones in a byte, any other behind a byte of 255.
    uint64_t number() {
        const uint8_t small = byte();
        if (small != 255) return small;
        uint64_t value = 0;
        for (int i = 0; i < 8; ++i) value |= uint64_t{byte()} << 8 * i;
        return value;
    }
    std::vector<std::byte> bytes(size_t count) {
        count = std::min(count, left_);
        std::vector<std::byte> taken(count);
        if (count) std::memcpy(taken.data(), next_, count);
        next_ += count;
        left_ -= count;
        return taken;
    }

  private:
    const uint8_t *next_;
    size_t left_;
};

class Output {
  public:
    Output &byte(uint8_t value) { return bytes_.push_back(value), *this; }
    Output &number(uint64_t value) {
        if (value < 255) return byte(static_cast<uint8_t>(value));
        byte(255);
        for (int i = 0; i < 8; ++i) byte(static_cast<uint8_t>(value >> 8 * i));
        return *this;
    }
    Output &bytes(const void *data, size_t count) {
        const auto *begin = static_cast<const uint8_t *>(data);
        bytes_.insert(bytes_.end(), begin, begin + count);
        return *this;
    }
    const std::vector<uint8_t> &content() const { return bytes_; }

  private:
    std::vector<uint8_t> bytes_;
};

// Ends the program, which the fuzzer reports with its input.
inline void require(bool right, const char *what) {
    if (right) return;
    std::fprintf(stderr, "not true: %s\n", what);
    std::abort();
}

}  // namespace replay::fuzz
