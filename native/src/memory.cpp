#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "error.h"

namespace replay {
namespace {

void want_huge_pages([[maybe_unused]] void *data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
    if (bytes >= (size_t{4} << 20)) madvise(data, bytes, MADV_HUGEPAGE);
#endif
}

}  // namespace

size_t size_of(uint64_t count, uint64_t bytes) {
    constexpr uint64_t MOST = uint64_t{1} << 56;  // of no address space there is; sums of several do not wrap around
    if (bytes && count > MOST / bytes) fail(RB_SYSTEM, "cannot get ", count, " times ", bytes, " bytes of memory");
    return count * bytes;
}

#ifdef REPLAY_HEAP
// For AddressSanitizer, which knows the ends of what comes from the heap.
void *map_memory(size_t bytes) {
    void *data = nullptr;
    if (posix_memalign(&data, 64, bytes) != 0) fail(RB_SYSTEM, "cannot get ", bytes, " bytes of memory");
    return std::memset(data, 0, bytes);
}

void unmap_memory(void *data, size_t) noexcept { std::free(data); }
#else
void *map_memory(size_t bytes) {
    void *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) fail(RB_SYSTEM, "cannot get ", bytes, " bytes of memory: ", std::strerror(errno));
    want_huge_pages(data, bytes);
    return data;
}

void unmap_memory(void *data, size_t bytes) noexcept { munmap(data, bytes); }
#endif

Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (bytes) data_ = static_cast<std::byte *>(map_memory(bytes));
}

Memory Memory::shared(size_t bytes) {
#ifdef MFD_CLOEXEC
    bytes += sizeof(SharedToken);
    const int descriptor = memfd_create(SHARED_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor >= 0) {
        // Who reads it may rely on its length: reading beyond the end of a file that has become shorter is fatal.
        if (fchmod(descriptor, S_IRUSR | S_IWUSR) == 0 && ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 &&
            fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
            void *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
            if (data != MAP_FAILED) {
                want_huge_pages(data, bytes);
                std::byte *token = static_cast<std::byte *>(data) + bytes - sizeof(SharedToken);
                if (getrandom(token, sizeof(SharedToken), 0) == sizeof(SharedToken)) return {data, bytes, descriptor};
                munmap(data, bytes);
            }
        }
        close(descriptor);
    }
#endif
    return Memory(bytes);  // a few bytes more than needed, if the system refused
}

Memory::~Memory() {
    if (of_file_ && data_) munmap(data_, bytes_);
    else if (data_) unmap_memory(data_, bytes_);
    if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace replay
