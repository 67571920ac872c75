#include "messages.h"

#include <cstring>
#include <limits>
#include <utility>

#include "error.h"

namespace replay {
namespace {

// Of the rows' numbers: filled up, so that the names that follow are aligned in the sender's memory.
size_t rows_bytes(uint64_t n) { return (n * sizeof(uint32_t) + 7) / 8 * 8; }

}  // namespace

std::unique_ptr<Message> header_message(const Header &header) {
    auto message = std::make_unique<Message>();
    const auto *bytes = reinterpret_cast<const std::byte *>(&header);
    message->header.assign(bytes, bytes + sizeof header);
    return message;
}

std::unique_ptr<Message> request_message(const Header &header, const std::vector<ClassCount> &counts) {
    auto message = header_message(header);
    const auto *content = reinterpret_cast<const std::byte *>(counts.data());
    message->owned.assign(content, content + counts.size() * sizeof(ClassCount));
    if (!message->owned.empty()) message->body = {{message->owned.data(), message->owned.size()}};
    return message;
}

std::vector<std::byte> names_and_rows(const std::vector<uint64_t> &chosen, const uint64_t *ids, const std::byte *rows,
                                      uint64_t row_bytes) {
    std::vector<std::byte> content(chosen.size() * (sizeof *ids + row_bytes));
    std::byte *names = content.data(), *values = names + chosen.size() * sizeof *ids;
    for (size_t i = 0; i < chosen.size(); ++i) {
        std::memcpy(names + i * sizeof *ids, &ids[chosen[i]], sizeof *ids);
        std::memcpy(values + i * row_bytes, rows + chosen[i] * row_bytes, row_bytes);
    }
    return content;
}

std::unique_ptr<Message> update_message(const Header &header, std::vector<std::byte> &&content) {
    auto message = header_message(header);
    message->owned = std::move(content);
    message->body = {{message->owned.data(), message->owned.size()}};
    return message;
}

std::unique_ptr<Message> records_message(const Header &header, const uint32_t *rows, const uint64_t *ids) {
    auto message = header_message(header);
    message->owned.resize(rows_bytes(header.n) + header.n * sizeof *ids);
    std::memcpy(message->owned.data(), rows, header.n * sizeof *rows);
    std::memcpy(message->owned.data() + rows_bytes(header.n), ids, header.n * sizeof *ids);
    message->body.push_back({message->owned.data(), message->owned.size()});
    return message;
}

Header read_header(const std::byte *header, size_t bytes, uint32_t rank, uint32_t ranks) {
    Header head;
    if (bytes != sizeof head) fail(RB_PEER, "a message of another version of this library arrived");
    std::memcpy(&head, header, sizeof head);
    if (head.source >= ranks || head.source == rank)
        fail(RB_PEER, "a message came from rank ", head.source, " of ", ranks);
    return head;
}

Request read_request(const Header &header, const std::byte *body, size_t bytes, uint32_t num_classes) {
    if (bytes % sizeof(ClassCount) != 0 || header.n > std::numeric_limits<uint32_t>::max())
        fail(RB_PEER, "rank ", header.source, " asked for a draw of ", header.n, " with ", bytes, " bytes of counts");
    Request request{header.n, header.updates, header.stored, std::vector<ClassCount>(bytes / sizeof(ClassCount))};
    if (bytes) std::memcpy(request.counts.data(), body, bytes);
    for (const ClassCount &count : request.counts)
        if (count.label >= num_classes) fail(RB_PEER, "rank ", header.source, " counts class ", count.label);
    return request;
}

Update read_update(const Header &header, const std::byte *body, size_t bytes, uint64_t row_bytes) {
    const uint64_t each = sizeof(uint64_t) + row_bytes;
    if (bytes % each != 0 || header.n != bytes / each)
        fail(RB_PEER, "rank ", header.source, " sent an update that does not fit field ", header.field);
    return {header.field, {body, body + bytes}, header.n};
}

RecordsBody read_records(const Header &header, const std::byte *body, size_t bytes, uint64_t content_bytes,
                         uint64_t room) {
    // No more than there is room for, so the product does not wrap around.
    if (header.n > room || bytes != rows_bytes(header.n) + header.n * (sizeof(uint64_t) + content_bytes))
        fail(RB_PEER, "rank ", header.source, " sent ", bytes, " bytes for ", header.n, " records of draw ",
             header.sequence, ", which has room for ", room);
    RecordsBody read{std::vector<uint32_t>(header.n), body + rows_bytes(header.n), nullptr};
    read.content = read.names + header.n * sizeof(uint64_t);
    if (header.n) std::memcpy(read.rows.data(), body, header.n * sizeof(uint32_t));
    for (uint32_t row : read.rows)
        if (row >= room) fail(RB_PEER, "rank ", header.source, " sent row ", row, " of a draw of ", room);
    return read;
}

}  // namespace replay
