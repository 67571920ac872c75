// The memory of draws: blocks that are used again and again. A fresh block costs a page fault per 4 KiB, which takes
// several times as long as copying the records.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "mutex.h"

namespace replay {

struct FieldInfo {
    std::string name;
    uint64_t row_bytes;
};

class StagingPool;

// Room for the rows of one draw: columns, names and weights one after another.
struct Staging {
    Staging(const std::vector<FieldInfo> &fields, uint64_t rows);

    Memory memory;
    uint64_t rows;  // room
    std::vector<const void *> columns;
    uint64_t *ids;
    float *weights;
    std::shared_ptr<StagingPool> pool;  // set while it is handed out: where it goes back to, and has to live so long

    // A draw that is handed out is known by where its memory begins; the first bytes there lead back to this object.
    void *lend(std::shared_ptr<StagingPool> owner) {
        pool = std::move(owner);
        return memory.data();
    }
    static void release(void *lease) noexcept;

    std::byte *column(size_t field) const { return static_cast<std::byte *>(const_cast<void *>(columns[field])); }
};

// Blocks that are not in use. May be called from any thread.
class StagingPool {
  public:
    explicit StagingPool(std::vector<FieldInfo> fields) : fields_(std::move(fields)) {}

    // A block with room for `rows`: a free one that fits, else a new one in place of a free one.
    std::unique_ptr<Staging> take(uint64_t rows);
    void give_back(std::unique_ptr<Staging> block) noexcept;
    uint64_t bytes() const;

  private:
    const std::vector<FieldInfo> fields_;
    mutable Mutex mutex_;
    std::vector<std::unique_ptr<Staging>> free_ GUARDED_BY(mutex_);
    uint64_t bytes_ GUARDED_BY(mutex_) = 0;
};

}  // namespace replay
