#include "shard.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace replay {

Shard::Shard(uint32_t rank, uint64_t capacity, std::vector<FieldInfo> fields, uint32_t label_field,
             std::unique_ptr<InsertionPolicy> insertion, bool shared)
    : rank_(rank), capacity_(capacity), fields_(std::move(fields)), label_field_(label_field),
      insertion_(std::move(insertion)), ids_(capacity) {
    for (const FieldInfo &field : fields_) {
        const uint64_t bytes = size_of(capacity, field.row_bytes);
        columns_.push_back(shared ? Memory::shared(bytes) : Memory(bytes));
    }
}

void Shard::add(uint64_t n, const void *const *columns) {
    if (n == 0) return;
    const auto *labels = static_cast<const int64_t *>(columns[label_field_]);
    const int64_t classes = insertion_->slots().num_classes();
    for (uint64_t row = 0; row < n; ++row)
        if (labels[row] < 0 || labels[row] >= classes)
            fail(RB_INVALID, "labels must lie in [0, ", classes, "), got ", labels[row], " in row ", row);
    const uint64_t first = insertion_->offered();
    placed_.clear();
    insertion_->offer(labels, static_cast<uint32_t>(n), placed_);
    for (const Placed &placed : placed_) ids_[placed.slot] = RecordId::make(rank_, placed.slot, first + placed.row);
    for (size_t field = 0; field < fields_.size(); ++field) {
        const auto *rows = static_cast<const std::byte *>(columns[field]);
        const uint64_t bytes = fields_[field].row_bytes;
        for (const Placed &placed : placed_) std::memcpy(row(field, placed.slot), rows + placed.row * bytes, bytes);
    }
}

bool Shard::update(uint32_t field, uint64_t id, const void *content) {
    const Slot slot = RecordId::slot(id);
    if (slot >= capacity_ || ids_[slot] != id) return false;
    std::memcpy(row(field, slot), content, fields_[field].row_bytes);
    return true;
}

uint64_t Shard::bytes() const {
    uint64_t bytes = 0;
    for (const FieldInfo &field : fields_) bytes += capacity_ * field.row_bytes;
    return bytes;
}

void Shard::restore(std::unique_ptr<InsertionPolicy> insertion, std::vector<uint64_t> ids) noexcept {
    insertion_ = std::move(insertion);
    ids_ = std::move(ids);
}

}  // namespace replay
