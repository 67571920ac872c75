// Buffer::copy and Buffer::load.
#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

#include "buffer.h"
#include "error.h"
#include "snapshot.h"

namespace replay {
namespace {

// What has to be equal, also where the number of ranks is not.
std::string policies_of(const Options &options) {
    std::ostringstream text;
    text.precision(17);
    text << "insertion " << options.insertion << ", sampling " << options.sampling;
    for (const auto &[name, value] : options.policy_options) text << ", " << name << " " << value;
    text << ", classes " << options.num_classes << ", label field " << options.label_field << ", fields";
    for (const FieldInfo &field : options.fields) text << " " << field.name << ":" << field.row_bytes;
    return text.str();
}

// Replace rows in the files that have been read, before their records get other names.
void apply(const SavedUpdate &update, uint64_t row_bytes, std::vector<Saved> &all) {
    for (size_t i = 0; i < update.ids.size(); ++i) {
        const uint32_t rank = RecordId::rank(update.ids[i]);
        const Slot slot = RecordId::slot(update.ids[i]);
        if (rank >= all.size() || slot >= all[rank].ids.size() || all[rank].ids[slot] != update.ids[i]) continue;
        const auto place = std::find(all[rank].stored.begin(), all[rank].stored.end(), slot);
        if (place == all[rank].stored.end()) continue;  // no longer stored
        std::byte *row = all[rank].columns[update.field].data() + (place - all[rank].stored.begin()) * row_bytes;
        std::memcpy(row, update.rows.data() + i * row_bytes, row_bytes);
    }
}

// A record of a file, and the slot that it gets.
struct Adopted {
    const Saved *saved;
    uint32_t place;  // in its columns
    Slot slot;
};

}  // namespace

Saved Buffer::copy() {
    Saved saved;
    {
        Lock lock(mutex_);
        check_usable();
        wait_until_quiet();
        wait([&]() REQUIRES(mutex_) { return draws_.all_complete(); },
             [&]() REQUIRES(mutex_) { return first_incomplete(); });
        saved = snapshot();
    }
    copy_rows(saved);  // the shard is the caller's while nothing is unserved
    return saved;
}

// Everything but the rows of the shard.
Saved Buffer::snapshot() const {
    Saved saved;
    saved.about = {options_.capacity, options_.ranks, options_.rank, options_.seed, policies_of(options_)};
    saved.requested = draws_.requested();
    saved.wait_seconds = wait_seconds_;
    const Slots &slots = shard_.insertion().slots();
    saved.insertion = shard_.insertion().state();
    saved.stored = slots.stored();
    saved.members = slots.members();
    saved.ids = shard_.ids();
    for (const Draw &draw : draws_.all()) {
        const Staging &staging = *draw.staging;
        SavedDraw copy{draw.n,
                       draw.expected,
                       {staging.ids, staging.ids + draw.expected},
                       {staging.weights, staging.weights + draw.expected},
                       {}};
        for (size_t field = 0; field < options_.fields.size(); ++field)
            copy.columns.emplace_back(staging.column(field),
                                      staging.column(field) + draw.expected * options_.fields[field].row_bytes);
        saved.draws.push_back(std::move(copy));
    }
    saved.updates = unseen_;
    return saved;
}

// In as few pieces as there are: slots are mostly in order.
void Buffer::copy_rows(Saved &saved) const {
    const std::vector<Slot> &stored = saved.stored;
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t bytes = options_.fields[field].row_bytes;
        Rows column(stored.size() * bytes);
        for (size_t first = 0, next; first < stored.size(); first = next) {
            next = first + 1;
            while (next < stored.size() && stored[next] == stored[next - 1] + 1) ++next;
            std::memcpy(column.data() + first * bytes, shard_.row(field, stored[first]), (next - first) * bytes);
        }
        saved.columns.push_back(std::move(column));
    }
}

std::vector<Saved> Buffer::read_files(const std::vector<std::string> &paths) const {
    const Expected expected{policies_of(options_), options_.fields, options_.num_classes, options_.label_field};
    std::vector<Saved> all;
    for (size_t rank = 0; rank < paths.size(); ++rank) {
        if (paths.size() == options_.ranks && rank != options_.rank) continue;
        const std::string &path = paths[rank];
        all.push_back(read_saved(path, expected));
        const About &about = all.back().about;
        if (about.policies != expected.policies)
            fail(RB_INVALID, path, " holds another buffer: expected ", expected.policies, "; got ", about.policies);
        if (about.seed != options_.seed)
            fail(RB_INVALID, path, " holds a buffer of another seed: expected ", options_.seed, ", got ", about.seed);
        if (about.ranks != paths.size() || about.rank != rank)
            fail(RB_INVALID, path, " is the shard of rank ", about.rank, " of ", about.ranks, ", expected rank ", rank,
                 " of ", paths.size());
        if (paths.size() == options_.ranks && about.capacity != options_.capacity)
            fail(RB_INVALID, path, " has a capacity of ", about.capacity, ", expected ", options_.capacity);
    }
    return all;
}

std::vector<uint64_t> Buffer::load(const std::vector<std::string> &paths) {
    {
        Lock lock(mutex_);
        check_usable();
        // The others may be ahead with draws of the new numbering.
        if (options_.ranks > 1 && draws_.requested())
            fail(RB_INVALID, "with several ranks a buffer is loaded before its first draw: this one has made ",
                 draws_.requested());
        wait_until_quiet();
    }
    std::vector<Saved> all = read_files(paths);
    if (paths.size() != options_.ranks) return load_others(all);
    load_own(all.front(), paths[options_.rank]);
    return {};
}

// Everything that can fail comes before the first change.
void Buffer::load_own(Saved &saved, const std::string &path) {
    std::deque<Draw> draws;
    for (const SavedDraw &copy : saved.draws) {
        if (copy.count > rows_for(copy.n)) fail(RB_INVALID, path, " has a draw of more records than there can be");
        Draw draw;
        draw.n = copy.n;
        draw.served = true;
        draw.expected = draw.arrived = copy.count;
        draw.missing.resize(options_.ranks);
        draw.staging = pool_->take(copy.count);
        std::copy(copy.ids.begin(), copy.ids.end(), draw.staging->ids);
        std::copy(copy.weights.begin(), copy.weights.end(), draw.staging->weights);
        for (size_t field = 0; field < options_.fields.size(); ++field)
            std::copy(copy.columns[field].begin(), copy.columns[field].end(), draw.staging->column(field));
        draws.push_back(std::move(draw));
    }
    Slots slots(options_.capacity, options_.num_classes);
    const std::vector<Slot> stored = saved.stored;
    slots.restore(std::move(saved.stored), std::move(saved.members));
    auto insertion = insertion_of(options_);
    insertion->restore(std::move(saved.insertion), std::move(slots));

    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t bytes = options_.fields[field].row_bytes;
        for (size_t i = 0; i < stored.size(); ++i)
            std::memcpy(shard_.row(field, stored[i]), saved.columns[field].data() + i * bytes, bytes);
    }
    shard_.restore(std::move(insertion), std::move(saved.ids));
    {
        Lock lock(mutex_);
        draws_.restart(saved.requested, std::move(draws), *pool_);
        served_ = spoken_ = saved.requested;
        wait_seconds_ = saved.wait_seconds;
    }
    for (const SavedUpdate &again : saved.updates)
        update(static_cast<uint32_t>(again.field), again.ids.size(), again.ids.data(), again.rows.data());
}

// Every record has a number: by rank, then by slot list. Number j goes to rank j mod ranks, class by class, so that the
// shards differ by one record at most, and so does each class.
std::vector<uint64_t> Buffer::load_others(std::vector<Saved> &all) {
    for (const Saved &saved : all)
        for (const SavedUpdate &again : saved.updates) apply(again, options_.fields[again.field].row_bytes, all);
    uint64_t records = 0, offered = 0, requested = 0;
    for (const Saved &saved : all) {
        records += saved.stored.size();
        offered = std::max(offered, saved.insertion.offered);
        requested = std::max(requested, saved.requested);
    }
    const uint64_t mine = (records + options_.ranks - 1 - options_.rank) / options_.ranks;
    if (mine > options_.capacity)
        fail(RB_INVALID, "the saved shards hold ", records, " records, of which ", mine, " would come to rank ",
             options_.rank, ", whose capacity is ", options_.capacity);
    auto insertion = insertion_of(options_);
    InsertionState state = insertion->state();
    state.offered = offered;  // numbers that were used once are not used again
    insertion->restore(std::move(state), Slots(options_.capacity, options_.num_classes));
    std::vector<uint64_t> ids(options_.capacity);
    std::vector<Adopted> adopted;
    uint64_t number = 0;
    for (uint32_t label = 0; label < options_.num_classes; ++label)
        for (const Saved &saved : all) {
            std::vector<uint32_t> places(saved.ids.size());
            for (uint32_t i = 0; i < saved.stored.size(); ++i) places[saved.stored[i]] = i;
            for (Slot from : saved.members[label]) {
                if (number++ % options_.ranks != options_.rank) continue;
                Slot slot;
                const uint64_t offer = insertion->offered();
                if (!insertion->adopt(label, saved.insertion.keys[from], slot))
                    fail(RB_INTERNAL, "no room for a record");
                ids[slot] = RecordId::make(options_.rank, slot, offer);
                adopted.push_back({&saved, places[from], slot});
            }
        }
    std::vector<uint64_t> sizes;
    for (const SavedDraw &draw : all.front().draws) sizes.push_back(draw.n);

    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t bytes = options_.fields[field].row_bytes;
        for (const Adopted &record : adopted)
            std::memcpy(shard_.row(field, record.slot), record.saved->columns[field].data() + record.place * bytes,
                        bytes);
    }
    shard_.restore(std::move(insertion), std::move(ids));
    Lock lock(mutex_);
    draws_.restart(requested, {}, *pool_);
    served_ = spoken_ = requested;
    return sizes;
}

}  // namespace replay
