// The C functions: arguments checked, exceptions turned into a status and a message.
#include "../include/replay.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <new>

#include "buffer.h"
#include "error.h"

struct rb_buffer {
    replay::Buffer buffer;
    std::vector<std::byte> address;
};

struct rb_copy {
    replay::Saved saved;
};

namespace {

thread_local char last_error[1024] = "no error";

// Never throws: it is called where an exception would get into C.
void say(const char *message) noexcept { std::snprintf(last_error, sizeof last_error, "%s", message); }

template <typename Call> int guarded(Call call) noexcept {
    try {
        call();
        return RB_OK;
    } catch (const replay::Error &error) {
        say(error.what());
        return error.status;
    } catch (const std::bad_alloc &) {
        say("out of memory");
        return RB_SYSTEM;
    } catch (const std::exception &error) {
        say(error.what());
        return RB_INTERNAL;
    } catch (...) {
        say("an exception of an unknown type");
        return RB_INTERNAL;
    }
}

template <typename T> void check_size(const T *value, const char *name) {
    if (!value) replay::fail(RB_INVALID, name, " is NULL");
    if (value->size != sizeof(T))
        replay::fail(RB_INVALID, name, " has size ", value->size, ", expected ", sizeof(T),
                     ": another version of replay.h");
}

void check_buffer(const rb_buffer *buffer) {
    if (!buffer) replay::fail(RB_INVALID, "buffer is NULL");
}

replay::Options read_options(const rb_options *given) {
    check_size(given, "options");
    const rb_options &o = *given;
    using replay::fail;
    if (o.capacity < 1) fail(RB_INVALID, "capacity must be at least 1 record, got ", o.capacity);
    if (o.capacity >= uint64_t{1} << replay::RecordId::SLOT_BITS)
        fail(RB_INVALID, "capacity must be below 2^", replay::RecordId::SLOT_BITS, ", got ", o.capacity);
    if (o.num_classes < 1) fail(RB_INVALID, "num_classes must be at least 1");
    if (!o.insertion || !o.sampling) fail(RB_INVALID, "insertion or sampling, the names of the policies, are NULL");
    if (o.num_policy_options && !o.policy_options) fail(RB_INVALID, "policy_options are NULL");
    replay::PolicyOptions numbers;
    for (uint32_t i = 0; i < o.num_policy_options; ++i) {
        check_size(&o.policy_options[i], "policy option");
        if (!o.policy_options[i].name) fail(RB_INVALID, "policy option ", i, " has no name");
        if (!numbers.emplace(o.policy_options[i].name, o.policy_options[i].value).second)
            fail(RB_INVALID, "policy option ", o.policy_options[i].name, " was given twice");
    }
    replay::check_policies(o.insertion, o.sampling, numbers);
    if (o.ranks < 1 || o.ranks > 4096) fail(RB_INVALID, "ranks must be 1 to 4096, got ", o.ranks);
    if (o.rank >= o.ranks) fail(RB_INVALID, "rank must be below ", o.ranks, ", got ", o.rank);
    if (!o.fields || o.num_fields < 1) fail(RB_INVALID, "a record needs at least one field");
    if (!(o.timeout_seconds > 0) || !std::isfinite(o.timeout_seconds) || o.timeout_seconds > 1e8)
        fail(RB_INVALID, "timeout_seconds must be above 0 and below 1e8, got ", o.timeout_seconds);
    if (o.local > 1) fail(RB_INVALID, "local must be 0 or 1, got ", o.local);
    replay::Options options{o.capacity,  o.seed,     o.num_classes,      o.rank, o.ranks,           o.label_field,
                            o.insertion, o.sampling, std::move(numbers), {},     o.timeout_seconds, {},
                            o.local == 1};
    std::copy(std::begin(o.token), std::end(o.token), options.token.begin());
    for (uint32_t i = 0; i < o.num_fields; ++i) {
        check_size(&o.fields[i], "field");
        if (!o.fields[i].name || !*o.fields[i].name) fail(RB_INVALID, "field ", i, " has no name");
        if (o.fields[i].row_bytes < 1) fail(RB_INVALID, "field ", o.fields[i].name, " has no bytes");
        options.fields.push_back({o.fields[i].name, o.fields[i].row_bytes});
    }
    if (o.label_field >= o.num_fields) fail(RB_INVALID, "there is no field ", o.label_field, " for the label");
    if (o.fields[o.label_field].row_bytes != sizeof(int64_t))
        fail(RB_INVALID, "the label is one int64, got ", o.fields[o.label_field].row_bytes, " bytes");
    return options;
}

std::vector<std::string> paths_of(const char *const *paths, uint32_t num_paths) {
    if (!paths || !num_paths) replay::fail(RB_INVALID, "paths is NULL, or there are none");
    for (uint32_t i = 0; i < num_paths; ++i)
        if (!paths[i]) replay::fail(RB_INVALID, "path ", i, " is NULL");
    return {paths, paths + num_paths};
}

}  // namespace

const char *rb_error(void) { return last_error; }

const char *rb_insertion_policy(uint32_t place) { return replay::InsertionPolicy::registry().name(place); }

const char *rb_sampling_policy(uint32_t place) { return replay::SamplingPolicy::registry().name(place); }

int rb_create(const rb_options *options, rb_buffer **buffer) {
    return guarded([&] {
        if (!buffer) replay::fail(RB_INVALID, "buffer is NULL");
        *buffer = new rb_buffer{{read_options(options), replay::make_transport}, {}};
    });
}

int rb_address(rb_buffer *buffer, const void **address, size_t *length) {
    return guarded([&] {
        check_buffer(buffer);
        if (!address || !length) replay::fail(RB_INVALID, "address or length is NULL");
        buffer->address = buffer->buffer.address();
        *address = buffer->address.data();
        *length = buffer->address.size();
    });
}

int rb_connect(rb_buffer *buffer, const void *const *addresses, const size_t *lengths) {
    return guarded([&] {
        check_buffer(buffer);
        if (!addresses || !lengths) replay::fail(RB_INVALID, "addresses or lengths are NULL");
        std::vector<std::vector<std::byte>> all(buffer->buffer.ranks());
        for (size_t rank = 0; rank < all.size(); ++rank) {
            if (!addresses[rank]) replay::fail(RB_INVALID, "the address of rank ", rank, " is NULL");
            const auto *bytes = static_cast<const std::byte *>(addresses[rank]);
            all[rank].assign(bytes, bytes + lengths[rank]);
        }
        buffer->buffer.connect(all);
    });
}

int rb_add(rb_buffer *buffer, uint64_t n, const void *const *columns) {
    return guarded([&] {
        check_buffer(buffer);
        if (n && !columns) replay::fail(RB_INVALID, "columns are NULL");
        if (n > UINT32_MAX) replay::fail(RB_INVALID, "a batch of ", n, " records is too large");
        buffer->buffer.add(n, columns);  // which looks at each of them
    });
}

int rb_update(rb_buffer *buffer, uint32_t field, uint64_t n, const uint64_t *ids, const void *rows) {
    return guarded([&] {
        check_buffer(buffer);
        if (n && (!ids || !rows)) replay::fail(RB_INVALID, "ids or rows are NULL");
        buffer->buffer.update(field, n, ids, static_cast<const std::byte *>(rows));
    });
}

int rb_request(rb_buffer *buffer, uint64_t n) {
    return guarded([&] {
        check_buffer(buffer);
        buffer->buffer.request(n);
    });
}

int rb_receive(rb_buffer *buffer, rb_records *records) {
    return guarded([&] {
        check_buffer(buffer);
        check_size(records, "records");
        buffer->buffer.receive(*records);
    });
}

void rb_release(void *lease) {
    if (lease) replay::Staging::release(lease);
}

int rb_get_stats(rb_buffer *buffer, rb_stats *stats) {
    return guarded([&] {
        check_buffer(buffer);
        check_size(stats, "stats");
        buffer->buffer.statistics(*stats);
    });
}

int rb_take_copy(rb_buffer *buffer, rb_copy **copy) {
    return guarded([&] {
        check_buffer(buffer);
        if (!copy) replay::fail(RB_INVALID, "copy is NULL");
        *copy = new rb_copy{buffer->buffer.copy()};
    });
}

int rb_write_copy(const rb_copy *copy, const char *path) {
    return guarded([&] {
        if (!copy || !path) replay::fail(RB_INVALID, "copy or path is NULL");
        replay::write_saved(path, copy->saved);
    });
}

void rb_free_copy(rb_copy *copy) { delete copy; }

int rb_load(rb_buffer *buffer, const char *const *paths, uint32_t num_paths, uint64_t *pending_sizes,
            uint32_t max_pending, uint32_t *num_pending) {
    return guarded([&] {
        check_buffer(buffer);
        if (!num_pending || (max_pending && !pending_sizes))
            replay::fail(RB_INVALID, "pending_sizes or num_pending are NULL");
        const std::vector<uint64_t> sizes = buffer->buffer.load(paths_of(paths, num_paths));
        *num_pending = static_cast<uint32_t>(sizes.size());
        for (uint32_t i = 0; i < max_pending && i < sizes.size(); ++i) pending_sizes[i] = sizes[i];
    });
}

int rb_check(rb_buffer *buffer, const char *const *paths, uint32_t num_paths) {
    return guarded([&] {
        check_buffer(buffer);
        buffer->buffer.check(paths_of(paths, num_paths));
    });
}

int rb_close(rb_buffer *buffer) {
    return guarded([&] {
        check_buffer(buffer);
        buffer->buffer.close();
    });
}

void rb_destroy(rb_buffer *buffer) { delete buffer; }
