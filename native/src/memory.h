// Memory straight from the system: zeroed, aligned to pages, given back at once, and in huge pages where it is large.
#pragma once

#include <cstddef>
#include <utility>

namespace replay {

class Memory {
  public:
    Memory() = default;
    explicit Memory(size_t bytes);
    Memory(Memory &&other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Memory &operator=(Memory &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Memory();

    std::byte *data() const { return data_; }
    size_t bytes() const { return bytes_; }

  private:
    std::byte *data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace replay
