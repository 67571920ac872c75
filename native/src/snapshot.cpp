#include "snapshot.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "../include/replay.h"
#include "error.h"

namespace replay {
namespace {

const std::string MAGIC = "replay shard 2";
const std::string ANY_MAGIC = "replay shard ";  // of any version

constexpr uint64_t MOST_COUNTED = uint64_t{1} << 62;  // of draws and of records, so that no count wraps around

// Reads the parts in the order of write_saved and checks each where it is read.
class Reader {
  public:
    Reader(const std::string &path, const Expected &expected) : path_(path), file_(path), expected_(expected) {}

    Saved read() {
        read_about();
        if (saved_.about.policies != expected_.policies) return std::move(saved_);
        read_slots();
        read_records();
        const uint64_t draws = file_.number();
        check(draws <= saved_.requested && draws <= RB_MOST_PENDING, "it has more draws than were requested");
        for (uint64_t i = 0; i < draws; ++i) read_draw();
        const uint64_t updates = file_.number();
        for (uint64_t i = 0; i < updates; ++i) read_update();
        file_.finish();
        return std::move(saved_);
    }

  private:
    void check(bool right, const char *otherwise) const {
        if (!right) file_.damaged(otherwise);
    }

    void read_about() {
        const std::string magic = file_.text();
        if (magic != MAGIC && magic.compare(0, ANY_MAGIC.size(), ANY_MAGIC) == 0)
            fail(RB_INVALID, path_, " was saved by another version of this library: expected ", MAGIC, ", got ", magic);
        check(magic == MAGIC, "it begins in another way");
        About &about = saved_.about;
        for (uint64_t *number : {&about.capacity, &about.ranks, &about.rank, &about.seed}) *number = file_.number();
        about.policies = file_.text();
        saved_.requested = file_.number();
        file_.bytes(&saved_.wait_seconds, sizeof saved_.wait_seconds);
        check(about.rank < about.ranks, "its rank is none of its ranks");
        check(saved_.requested <= MOST_COUNTED, "it has counted more draws than there can be");
        check(std::isfinite(saved_.wait_seconds) && saved_.wait_seconds >= 0, "a time is below 0");
    }

    // Every slot is in the list of those with a record or in that of those without, and once in that of its class.
    void read_slots() {
        check(file_.number() == expected_.num_classes, "its numbers do not agree");
        InsertionState &insertion = saved_.insertion;
        insertion.offered = file_.number();
        insertion.keys = file_.list<uint64_t>();
        insertion.free = file_.list<Slot>();
        insertion.appearance = file_.list<uint32_t>();
        saved_.stored = file_.list<Slot>();
        size_t in_classes = 0;
        for (uint32_t label = 0; label < expected_.num_classes; ++label) {
            saved_.members.push_back(file_.list<Slot>());
            in_classes += saved_.members.back().size();
        }
        saved_.ids = file_.list<uint64_t>();
        const uint64_t capacity = saved_.about.capacity;
        check(insertion.keys.size() == capacity && saved_.ids.size() == capacity &&
                  in_classes == saved_.stored.size() && saved_.stored.size() + insertion.free.size() == capacity &&
                  insertion.offered >= saved_.stored.size() && insertion.offered <= MOST_COUNTED,
              "its numbers do not agree");
        enum : unsigned char { NOWHERE, FREE, STORED, IN_CLASS };
        std::vector<unsigned char> place(capacity, NOWHERE);
        const auto move = [&](const std::vector<Slot> &slots, unsigned char from, unsigned char to) {
            for (Slot slot : slots) {
                check(slot < capacity, "it has a slot out of range");
                check(place[slot] == from, "it has a slot in two lists");
                place[slot] = to;
            }
        };
        move(insertion.free, NOWHERE, FREE);
        move(saved_.stored, NOWHERE, STORED);
        for (const auto &members : saved_.members) move(members, STORED, IN_CLASS);
        std::vector<bool> appeared(expected_.num_classes);
        for (uint32_t label : insertion.appearance) {
            check(label < expected_.num_classes && !appeared[label], "a class has appeared twice, or does not exist");
            appeared[label] = true;
        }
        for (Slot slot = 0; slot < capacity; ++slot) {
            const uint64_t id = saved_.ids[slot];
            const bool own = RecordId::rank(id) == saved_.about.rank && RecordId::slot(id) == slot;
            check(own || (id == 0 && place[slot] == FREE), "a record has the name of another");  // never written: 0
        }
    }

    void read_records() {
        for (const FieldInfo &field : expected_.fields) saved_.columns.push_back(column(field, saved_.stored.size()));
        std::vector<int64_t> labels(saved_.about.capacity);
        const auto &rows = saved_.columns[expected_.label_field];
        for (size_t i = 0; i < saved_.stored.size(); ++i)
            std::memcpy(&labels[saved_.stored[i]], rows.data() + i * sizeof(int64_t), sizeof(int64_t));
        for (uint32_t label = 0; label < expected_.num_classes; ++label)
            for (Slot slot : saved_.members[label])
                check(labels[slot] == int64_t{label}, "a record is in the list of another class");
    }

    void read_draw() {
        SavedDraw draw;
        draw.n = file_.number();
        draw.ids = file_.list<uint64_t>();
        draw.weights = file_.list<float>();
        draw.count = draw.ids.size();
        check(
            draw.weights.size() == draw.count && draw.count <= draw.n && draw.n <= std::numeric_limits<uint32_t>::max(),
            "a draw has another size");
        for (uint64_t id : draw.ids) check(RecordId::rank(id) < saved_.about.ranks, "a record is of no rank");
        for (float weight : draw.weights) check(std::isfinite(weight) && weight > 0, "a weight is not above 0");
        for (const FieldInfo &field : expected_.fields) draw.columns.push_back(column(field, draw.count));
        const auto &rows = draw.columns[expected_.label_field];
        for (uint64_t i = 0; i < draw.count; ++i) {
            int64_t label;
            std::memcpy(&label, rows.data() + i * sizeof label, sizeof label);
            check(label >= 0 && label < int64_t{expected_.num_classes}, "a drawn record is of no class");
        }
        saved_.draws.push_back(std::move(draw));
    }

    void read_update() {
        SavedUpdate update;
        update.field = file_.number();
        update.ids = file_.list<uint64_t>();
        update.rows = file_.list<std::byte>();
        check(update.field < expected_.fields.size() && update.field != expected_.label_field &&
                  is_product(update.rows.size(), update.ids.size(), expected_.fields[update.field].row_bytes),
              "an update has another size");
        for (uint64_t id : update.ids) check(RecordId::rank(id) < saved_.about.ranks, "a record is of no rank");
        saved_.updates.push_back(std::move(update));
    }

    Rows column(const FieldInfo &field, uint64_t count) {
        Rows rows = file_.list<std::byte, Rows>();
        check(is_product(rows.size(), count, field.row_bytes), "a field has another size");
        return rows;
    }

    // Without a product that could wrap around.
    static bool is_product(uint64_t bytes, uint64_t count, uint64_t each) {
        return bytes % each == 0 && bytes / each == count;
    }

    const std::string &path_;
    FileReader file_;
    const Expected &expected_;
    Saved saved_{};
};

}  // namespace

void write_saved(const std::string &path, const Saved &saved) {
    FileWriter file(path);
    file.text(MAGIC);
    const About &about = saved.about;
    for (uint64_t number : {about.capacity, about.ranks, about.rank, about.seed}) file.number(number);
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

Saved read_saved(const std::string &path, const Expected &expected) { return Reader(path, expected).read(); }

}  // namespace replay
