// Memory straight from the system: zeroed, aligned to pages, given back at once, and in huge pages where it is large.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace replay {

// Bytes of `count` things; throws where there cannot be as many.
size_t size_of(uint64_t count, uint64_t bytes);
void *map_memory(size_t bytes);
void unmap_memory(void *data, size_t bytes) noexcept;
using SharedToken = std::array<uint8_t, 16>;
constexpr char SHARED_NAME[] = "replay";  // in the list of a process's files

class Memory {
  public:
    Memory() = default;
    explicit Memory(size_t bytes);
    Memory(void *mapped, size_t bytes, int descriptor)
        : data_(static_cast<std::byte *>(mapped)), bytes_(bytes), descriptor_(descriptor), of_file_(true) {}
    // What other processes of this user may map as well, if the system has such, of a length that never changes, and
    // random bytes behind it to know it by; else as above.
    static Memory shared(size_t bytes);
    Memory(Memory &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)),
          descriptor_(std::exchange(other.descriptor_, -1)), of_file_(other.of_file_) {}
    Memory &operator=(Memory &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        std::swap(descriptor_, other.descriptor_);
        std::swap(of_file_, other.of_file_);
        return *this;
    }
    ~Memory();

    std::byte *data() const { return data_; }
    size_t bytes() const { return bytes_; }
    int descriptor() const { return descriptor_; }  // of shared memory, else -1

  private:
    std::byte *data_ = nullptr;
    size_t bytes_ = 0;
    int descriptor_ = -1;
    bool of_file_ = false;
};

// The same for a list that is filled after it is made: its content is not set to 0 once more.
template <typename T> struct SystemMemory {
    using value_type = T;

    T *allocate(size_t count) { return static_cast<T *>(map_memory(size_of(count, sizeof(T)))); }
    void deallocate(T *data, size_t count) noexcept { unmap_memory(data, count * sizeof(T)); }
    void construct(T *) noexcept {}
    template <typename... Parts> void construct(T *place, Parts &&...parts) { new (place) T(parts...); }
    bool operator==(const SystemMemory &) const { return true; }
    bool operator!=(const SystemMemory &) const { return false; }
};
using Rows = std::vector<std::byte, SystemMemory<std::byte>>;

}  // namespace replay
