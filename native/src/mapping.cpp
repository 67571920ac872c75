#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>

namespace replay {

MappingAddress mapping_address(const Memory &memory) {
    MappingAddress address;
    if (memory.descriptor() < 0) return address;
    address.process = getpid();
    address.descriptor = memory.descriptor();
    address.bytes = memory.bytes();
    std::memcpy(&address.token, memory.data() + memory.bytes() - sizeof address.token, sizeof address.token);
    return address;
}

Memory map_other(const MappingAddress &address) {
    if (address.descriptor < 0) return {};
    const std::string path = "/proc/" + std::to_string(address.process) + "/fd/" + std::to_string(address.descriptor);
    // Of a process on another host the same number may be a pipe here, whose end without a writer would block.
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return {};
    Memory memory;
    struct stat about;
    if (fstat(file, &about) == 0 && static_cast<uint64_t>(about.st_size) == address.bytes &&
        address.bytes >= sizeof address.token) {
        void *data = mmap(nullptr, address.bytes, PROT_READ, MAP_SHARED, file, 0);
        if (data != MAP_FAILED) memory = Memory(data, address.bytes, -1);
    }
    close(file);
    if (!memory.data()) return {};
    const std::byte *token = memory.data() + memory.bytes() - sizeof address.token;
    return std::memcmp(token, &address.token, sizeof address.token) == 0 ? std::move(memory) : Memory();
}

}  // namespace replay
