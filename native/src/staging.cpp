#include "staging.h"

#include <algorithm>
#include <new>
#include <utility>

namespace replay {
namespace {

constexpr size_t ALIGNMENT = 64;  // of every column: a cache line, and more than any dtype wants

size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

}  // namespace

Staging::Staging(const std::vector<FieldInfo> &fields, uint64_t rows) : rows(std::max<uint64_t>(rows, 1)) {
    size_t bytes = ALIGNMENT + aligned(this->rows * sizeof *ids) + aligned(this->rows * sizeof *weights);
    for (const FieldInfo &field : fields) bytes += aligned(size_of(this->rows, field.row_bytes));
    memory = Memory(bytes);
    std::byte *next = memory.data();
    const auto part = [&](size_t size) { return std::exchange(next, next + aligned(size)); };
    *reinterpret_cast<Staging **>(part(ALIGNMENT)) = this;
    for (const FieldInfo &field : fields) columns.push_back(part(this->rows * field.row_bytes));
    ids = reinterpret_cast<uint64_t *>(part(this->rows * sizeof *ids));
    weights = reinterpret_cast<float *>(part(this->rows * sizeof *weights));
}

void Staging::release(void *lease) noexcept {
    std::unique_ptr<Staging> block(*static_cast<Staging **>(lease));
    const std::shared_ptr<StagingPool> owner = std::move(block->pool);
    owner->give_back(std::move(block));
}

std::unique_ptr<Staging> StagingPool::take(uint64_t rows) {
    std::unique_ptr<Staging> block;
    {
        Lock lock(mutex_);
        // The one given back last is the one most likely to be in the caches still.
        const auto fits = [&](const auto &candidate) {
            return candidate->rows >= rows && candidate->rows <= 2 * rows + 64;
        };
        const auto found = std::find_if(free_.rbegin(), free_.rend(), fits);
        if (found != free_.rend()) {
            block = std::move(*found);
            free_.erase(std::next(found).base());
        } else if (!free_.empty()) {  // of another size: the draws have changed, so it will not be used again
            bytes_ -= free_.front()->memory.bytes();
            free_.erase(free_.begin());
        }
    }
    if (!block) {
        block = std::make_unique<Staging>(fields_, rows);
        Lock lock(mutex_);
        bytes_ += block->memory.bytes();
    }
    return block;
}

void StagingPool::give_back(std::unique_ptr<Staging> block) noexcept {
    Lock lock(mutex_);
    try {
        free_.push_back(std::move(block));
    } catch (const std::bad_alloc &) {  // then it is freed, and a later draw needs another
        bytes_ -= block->memory.bytes();
    }
}

uint64_t StagingPool::bytes() const {
    Lock lock(mutex_);
    return bytes_;
}

}  // namespace replay
