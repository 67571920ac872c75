#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>

namespace replay {
namespace {

// Whether a path of /proc leads to shared memory of a replay buffer. To open anything else could have effects.
[[maybe_unused]] bool is_ours(const std::string &path) {
    const std::string expected = std::string("/memfd:") + SHARED_NAME + " ";
    std::array<char, 64> name{};
    const ssize_t length = readlink(path.c_str(), name.data(), name.size());
    return length > 0 &&
           std::string(name.data(), static_cast<size_t>(length)).compare(0, expected.size(), expected) == 0;
}

// Whether a file is of this user and can never become shorter than what is mapped.
[[maybe_unused]] bool is_safe(int file, uint64_t bytes) {
#ifdef F_GET_SEALS
    struct stat about;
    const int seals = fcntl(file, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(file, &about) == 0 && about.st_uid == geteuid() &&
           static_cast<uint64_t>(about.st_size) == bytes;
#else
    return false;
#endif
}

}  // namespace

MappingAddress mapping_address(const Memory &memory) {
    MappingAddress address;
    if (memory.descriptor() < 0) return address;
    address.process = getpid();
    address.descriptor = memory.descriptor();
    std::memcpy(&address.token, memory.data() + memory.bytes() - sizeof address.token, sizeof address.token);
    return address;
}

Memory map_other(const MappingAddress &address, uint64_t bytes) {
    if (address.descriptor < 0) return {};
    bytes += sizeof address.token;
    const std::string path = "/proc/" + std::to_string(address.process) + "/fd/" + std::to_string(address.descriptor);
    // Of a process on another host the same numbers may be anything here.
    if (!is_ours(path)) return {};
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return {};
    Memory memory;
    if (is_safe(file, bytes)) {
        void *data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
        if (data != MAP_FAILED) memory = Memory(data, bytes, -1);
    }
    close(file);
    if (!memory.data()) return {};
    const std::byte *token = memory.data() + memory.bytes() - sizeof address.token;
    return std::memcmp(token, &address.token, sizeof address.token) == 0 ? std::move(memory) : Memory();
}

}  // namespace replay
