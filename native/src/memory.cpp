#include "memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "error.h"

namespace replay {

Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) fail(RB_SYSTEM, "cannot get ", bytes, " bytes of memory: ", std::strerror(errno));
    data_ = static_cast<std::byte *>(data);
#ifdef MADV_HUGEPAGE
    if (bytes >= (size_t{4} << 20)) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
    if (data_) munmap(data_, bytes_);
}

}  // namespace replay
