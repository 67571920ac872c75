// Buffer::save and Buffer::load.
#include <algorithm>
#include <cstring>
#include <sstream>

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

}  // namespace

void Buffer::save(const std::string &path) {
    Lock lock(mutex_);
    check_usable();
    wait_until_quiet(lock);
    const auto all_here = [&] {
        return std::all_of(draws_.begin(), draws_.end(), [](const Draw &draw) { return draw.complete(); });
    };
    wait(lock, all_here, [&] { return silent_ranks(served_); });
    lock.unlock();  // nobody else changes anything before the next request

    Saved saved;
    saved.about = {options_.capacity, options_.ranks, options_.rank, options_.seed, policies_of(options_)};
    saved.requested = requested_;
    saved.wait_seconds = wait_seconds_;
    const Slots &slots = shard_.insertion().slots();
    saved.insertion = shard_.insertion().state();
    saved.stored = slots.stored();
    saved.members = slots.members();
    saved.ids = shard_.ids();
    for (size_t field = 0; field < options_.fields.size(); ++field) {
        const uint64_t bytes = options_.fields[field].row_bytes;
        std::vector<std::byte> column(saved.stored.size() * bytes);
        for (size_t i = 0; i < saved.stored.size(); ++i)
            std::memcpy(column.data() + i * bytes, shard_.row(field, saved.stored[i]), bytes);
        saved.columns.push_back(std::move(column));
    }
    for (const Draw &draw : draws_) {
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
    FileWriter file(path);
    write_saved(file, saved);
}

void Buffer::check_loaded(const Saved &saved, const std::string &path) const {
    const std::string expected = policies_of(options_);
    if (saved.about.policies != expected)
        fail(RB_INVALID, path, " holds another buffer: expected ", expected, "; got ", saved.about.policies);
    if (saved.about.seed != options_.seed)
        fail(RB_INVALID, path, " holds a buffer of another seed: expected ", options_.seed, ", got ", saved.about.seed);
}

std::vector<uint64_t> Buffer::load(const std::vector<std::string> &paths) {
    Lock lock(mutex_);
    check_usable();
    // The others may be ahead with draws of the new numbering.
    if (options_.ranks > 1 && requested_)
        fail(RB_INVALID, "with several ranks a buffer is loaded before its first draw: this one has made ", requested_);
    wait_until_quiet(lock);
    lock.unlock();

    const bool same_ranks = paths.size() == options_.ranks;
    std::vector<Saved> all;
    for (size_t rank = 0; rank < paths.size(); ++rank) {
        if (same_ranks && rank != options_.rank) continue;
        all.push_back(read_saved(paths[rank], policies_of(options_), options_.fields, options_.num_classes));
        check_loaded(all.back(), paths[rank]);
        if (all.back().about.ranks != paths.size() || all.back().about.rank != rank)
            fail(RB_INVALID, paths[rank], " is the shard of rank ", all.back().about.rank, " of ",
                 all.back().about.ranks, ", expected rank ", rank, " of ", paths.size());
    }

    if (same_ranks) {
        Saved &saved = all.front();
        if (saved.about.total_capacity != options_.capacity)
            fail(RB_INVALID, paths[options_.rank], " has a capacity of ", saved.about.total_capacity, ", expected ",
                 options_.capacity);
        Slots slots(options_.capacity, options_.num_classes);
        for (size_t field = 0; field < options_.fields.size(); ++field) {
            const uint64_t bytes = options_.fields[field].row_bytes;
            for (size_t i = 0; i < saved.stored.size(); ++i)
                std::memcpy(shard_.row(field, saved.stored[i]), saved.columns[field].data() + i * bytes, bytes);
        }
        slots.restore(std::move(saved.stored), std::move(saved.members));
        auto insertion = insertion_of(options_);
        insertion->restore(std::move(saved.insertion), std::move(slots));
        shard_.restore(std::move(insertion), std::move(saved.ids));
        lock.lock();
        forget_draws();
        requested_ = served_ = saved.requested;
        wait_seconds_ = saved.wait_seconds;
        first_draw_ = requested_ - saved.draws.size();
        for (const SavedDraw &copy : saved.draws) {
            Draw draw;
            draw.n = copy.n;
            draw.served = true;
            draw.expected = draw.arrived = copy.count;
            draw.missing.resize(options_.ranks);
            draw.staging = pool_->take(copy.n);
            std::copy(copy.ids.begin(), copy.ids.end(), draw.staging->ids);
            std::copy(copy.weights.begin(), copy.weights.end(), draw.staging->weights);
            for (size_t field = 0; field < options_.fields.size(); ++field)
                std::copy(copy.columns[field].begin(), copy.columns[field].end(), draw.staging->column(field));
            draws_.push_back(std::move(draw));
        }
        lock.unlock();
        for (const SavedUpdate &again : saved.updates)
            update(static_cast<uint32_t>(again.field), again.ids.size(), again.ids.data(), again.rows.data());
        return {};
    }

    for (const Saved &saved : all)
        for (const SavedUpdate &again : saved.updates) apply(again, options_.fields[again.field].row_bytes, all);

    // Every record has a number: by rank, then by slot list. Number j goes to rank j mod ranks, class by class, so that
    // the shards differ by one record at most, and so does each class.
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
    shard_.restore(std::move(insertion), std::vector<uint64_t>(options_.capacity));
    uint64_t number = 0;
    for (uint32_t label = 0; label < options_.num_classes; ++label)
        for (const Saved &saved : all) {
            std::vector<uint32_t> places(saved.ids.size());
            for (uint32_t i = 0; i < saved.stored.size(); ++i) places[saved.stored[i]] = i;
            for (Slot from : saved.members[label]) {
                if (number++ % options_.ranks != options_.rank) continue;
                Slot slot;
                if (!shard_.adopt(label, saved.insertion.keys[from], slot)) fail(RB_INTERNAL, "no room for a record");
                for (size_t field = 0; field < options_.fields.size(); ++field) {
                    const uint64_t bytes = options_.fields[field].row_bytes;
                    std::memcpy(shard_.row(field, slot), saved.columns[field].data() + places[from] * bytes, bytes);
                }
            }
        }
    lock.lock();
    forget_draws();
    requested_ = served_ = first_draw_ = requested;
    std::vector<uint64_t> sizes;
    for (const SavedDraw &draw : all.front().draws) sizes.push_back(draw.n);
    return sizes;
}

}  // namespace replay
