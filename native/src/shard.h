// One rank's records: their bytes by field, their names, and the insertion policy that decides which they are.
// Not synchronised: one thread at a time, see Buffer.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "insertion.h"
#include "memory.h"
#include "sampling.h"
#include "staging.h"

namespace replay {

// A record's name: its rank, its slot, and the low bits of the number under which it was offered.
struct RecordId {
    static constexpr int SLOT_BITS = 26, STAMP_BITS = 26;
    static uint64_t make(uint32_t rank, Slot slot, uint64_t offered) {
        return uint64_t{rank} << (SLOT_BITS + STAMP_BITS) | uint64_t{slot} << STAMP_BITS |
               (offered & ((uint64_t{1} << STAMP_BITS) - 1));
    }
    static uint32_t rank(uint64_t id) { return static_cast<uint32_t>(id >> (SLOT_BITS + STAMP_BITS)); }
    static Slot slot(uint64_t id) { return static_cast<Slot>(id >> STAMP_BITS & ((uint64_t{1} << SLOT_BITS) - 1)); }
};

class Shard {
  public:
    // `shared`: in memory that other processes may read.
    Shard(uint32_t rank, uint64_t capacity, std::vector<FieldInfo> fields, uint32_t label_field,
          std::unique_ptr<InsertionPolicy> insertion, bool shared);

    // Throws for labels out of range, with nothing changed.
    void add(uint64_t n, const void *const *columns);
    // False if the record is no longer there.
    bool update(uint32_t field, uint64_t id, const void *row);

    Slot slot_of(const Pick &pick) const {
        const Slots &slots = insertion_->slots();
        return pick.label == ANY_CLASS ? slots.stored()[pick.position] : slots.of_class(pick.label)[pick.position];
    }
    const std::byte *row(size_t field, Slot slot) const {
        return columns_[field].data() + slot * fields_[field].row_bytes;
    }
    std::byte *row(size_t field, Slot slot) { return columns_[field].data() + slot * fields_[field].row_bytes; }
    uint64_t id(Slot slot) const { return ids_[slot]; }
    const Memory &column(size_t field) const { return columns_[field]; }

    uint64_t size() const { return insertion_->slots().stored().size(); }
    uint64_t count(uint32_t label) const { return insertion_->slots().of_class(label).size(); }
    uint64_t bytes() const;
    uint64_t capacity() const { return capacity_; }
    const std::vector<FieldInfo> &fields() const { return fields_; }
    const InsertionPolicy &insertion() const { return *insertion_; }

    // For the files: take over policies and names as they were.
    void restore(std::unique_ptr<InsertionPolicy> insertion, std::vector<uint64_t> ids) noexcept;
    const std::vector<uint64_t> &ids() const { return ids_; }

  private:
    const uint32_t rank_;
    const uint64_t capacity_;
    const std::vector<FieldInfo> fields_;
    const uint32_t label_field_;
    std::unique_ptr<InsertionPolicy> insertion_;
    std::vector<Memory> columns_;
    std::vector<uint64_t> ids_;  // [capacity], of the record in each slot
    std::vector<Placed> placed_;
};

}  // namespace replay
