#include "snapshot.h"

#include "error.h"

namespace replay {
namespace {

const char MAGIC[] = "replay shard 1";

}  // namespace

void write_saved(FileWriter &file, const Saved &saved) {
    file.text(MAGIC);
    const About &about = saved.about;
    for (uint64_t number : {about.total_capacity, about.ranks, about.rank, about.seed}) file.number(number);
    file.text(about.policies);
    file.number(saved.requested);
    file.bytes(&saved.wait_seconds, sizeof saved.wait_seconds);
    file.number(saved.members.size());
    file.number(saved.insertion.offered);
    file.list(saved.insertion.keys);
    file.list(saved.insertion.free);
    file.list(saved.insertion.appearance);
    file.list(saved.stored);
    for (const auto &members : saved.members) file.list(members);
    file.list(saved.ids);
    for (const auto &column : saved.columns) file.list(column);
    file.number(saved.draws.size());
    for (const SavedDraw &draw : saved.draws) {
        file.number(draw.n);
        file.list(draw.ids);
        file.list(draw.weights);
        for (const auto &column : draw.columns) file.list(column);
    }
    file.number(saved.updates.size());
    for (const SavedUpdate &update : saved.updates) {
        file.number(update.field);
        file.list(update.ids);
        file.list(update.rows);
    }
    file.commit();
}

Saved read_saved(const std::string &path, const std::string &policies, const std::vector<FieldInfo> &fields,
                 uint32_t num_classes) {
    FileReader file(path);
    if (file.text() != MAGIC) file.damaged("it begins in another way");
    Saved saved;
    About &about = saved.about;
    for (uint64_t *number : {&about.total_capacity, &about.ranks, &about.rank, &about.seed}) *number = file.number();
    about.policies = file.text();
    saved.requested = file.number();
    file.bytes(&saved.wait_seconds, sizeof saved.wait_seconds);
    // Of another number of classes or fields: the rest cannot be read, and need not be.
    if (about.policies != policies) return saved;
    if (file.number() != num_classes) file.damaged("its numbers do not agree");
    saved.insertion.offered = file.number();
    saved.insertion.keys = file.list<uint64_t>();
    saved.insertion.free = file.list<Slot>();
    saved.insertion.appearance = file.list<uint32_t>();
    saved.stored = file.list<Slot>();
    size_t in_classes = 0;
    for (uint32_t label = 0; label < num_classes; ++label) {
        saved.members.push_back(file.list<Slot>());
        in_classes += saved.members.back().size();
    }
    saved.ids = file.list<uint64_t>();
    const uint64_t capacity = saved.ids.size();
    if (saved.insertion.keys.size() != capacity || in_classes != saved.stored.size() ||
        saved.stored.size() + saved.insertion.free.size() != capacity)
        file.damaged("its numbers do not agree");
    for (Slot slot : saved.stored)
        if (slot >= capacity) file.damaged("it has a slot out of range");
    for (const auto &members : saved.members)
        for (Slot slot : members)
            if (slot >= capacity) file.damaged("it has a slot out of range");
    for (const FieldInfo &field : fields) {
        saved.columns.push_back(file.list<std::byte>());
        if (saved.columns.back().size() != saved.stored.size() * field.row_bytes)
            file.damaged("a field has another size");
    }
    const uint64_t draws = file.number();
    for (uint64_t i = 0; i < draws; ++i) {
        SavedDraw draw;
        draw.n = file.number();
        draw.ids = file.list<uint64_t>();
        draw.weights = file.list<float>();
        draw.count = draw.ids.size();
        for (const FieldInfo &field : fields) {
            draw.columns.push_back(file.list<std::byte>());
            if (draw.columns.back().size() != draw.count * field.row_bytes) file.damaged("a draw has another size");
        }
        if (draw.weights.size() != draw.count || draw.count > draw.n) file.damaged("a draw has another size");
        saved.draws.push_back(std::move(draw));
    }
    const uint64_t updates = file.number();
    for (uint64_t i = 0; i < updates; ++i) {
        SavedUpdate update;
        update.field = file.number();
        update.ids = file.list<uint64_t>();
        update.rows = file.list<std::byte>();
        if (update.field >= fields.size() || update.rows.size() != update.ids.size() * fields[update.field].row_bytes)
            file.damaged("an update has another size");
        saved.updates.push_back(std::move(update));
    }
    file.finish();
    return saved;
}

}  // namespace replay
