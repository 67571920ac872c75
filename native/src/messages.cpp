#include "messages.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "error.h"

namespace replay {
namespace {

constexpr uint64_t MESSAGE_BYTES = 240 << 10;  // with its header below the transport's segments
constexpr uint64_t REASON_BYTES = 400;

// Of the rows' numbers: filled up, so that the names that follow are aligned in the sender's memory.
size_t rows_bytes(uint64_t n) { return (n * sizeof(uint32_t) + 7) / 8 * 8; }

// Takes the same time wherever they differ, so that it cannot be guessed byte by byte.
bool equal(const Token &one, const Token &other) {
    volatile uint8_t difference = 0;
    for (size_t i = 0; i < one.size(); ++i) difference = difference | (one[i] ^ other[i]);
    return difference == 0;
}

}  // namespace

uint64_t records_per_message(uint64_t bytes) { return std::max<uint64_t>(1, MESSAGE_BYTES / bytes); }

std::unique_ptr<Message> header_message(const Header &header) {
    auto message = std::make_unique<Message>();
    const auto *bytes = reinterpret_cast<const std::byte *>(&header);
    message->header.assign(bytes, bytes + sizeof header);
    return message;
}

std::unique_ptr<Message> failed_message(Header header, const std::string &reason) {
    header.n = std::min<uint64_t>(reason.size(), REASON_BYTES);
    auto message = header_message(header);
    const auto *text = reinterpret_cast<const std::byte *>(reason.data());
    message->owned.assign(text, text + header.n);
    message->body = {{message->owned.data(), message->owned.size()}};
    return message;
}

std::unique_ptr<Message> changes_message(const Header &header, const Changes &changes) {
    auto message = header_message(header);
    const auto append = [&](const void *content, size_t bytes) {
        const auto *begin = static_cast<const std::byte *>(content);
        message->owned.insert(message->owned.end(), begin, begin + bytes);
    };
    for (const Change &change : changes) {
        ChangeHead head = change;
        head.classes = static_cast<uint32_t>(change.counts.size());
        append(&head, sizeof head);
        append(change.counts.data(), change.counts.size() * sizeof(ClassCount));
    }
    if (!message->owned.empty()) message->body = {{message->owned.data(), message->owned.size()}};
    return message;
}

std::vector<std::byte> names_and_rows(const uint64_t *chosen, uint64_t n, const uint64_t *ids, const std::byte *rows,
                                      uint64_t row_bytes) {
    std::vector<std::byte> content(n * (sizeof *ids + row_bytes));
    std::byte *names = content.data(), *values = names + n * sizeof *ids;
    for (size_t i = 0; i < n; ++i) {
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

std::optional<Header> read_header(const std::byte *header, size_t bytes, const Token &token, uint32_t rank,
                                  uint32_t ranks) {
    Header head;
    if (bytes != sizeof head) return {};
    std::memcpy(&head, header, sizeof head);
    if (!equal(head.token, token) || head.source >= ranks || head.source == rank) return {};
    return head;
}

void check_changes(const Header &header, size_t bytes, const Dissemination &dissemination, uint32_t num_classes) {
    if (header.n >= dissemination.rounds() || dissemination.from(static_cast<uint32_t>(header.n)) != header.source)
        fail(RB_PEER, "rank ", header.source, " sent round ", header.n, " of the changes of draw ", header.sequence,
             ", which is not from it");
    const uint64_t most = (uint64_t{1} << header.n) * (sizeof(ChangeHead) + num_classes * sizeof(ClassCount));
    if (bytes > most) fail(RB_PEER, "rank ", header.source, " sent ", bytes, " bytes of changes, there can be ", most);
}

void check_update(const Header &header, size_t bytes, uint64_t row_bytes) {
    const uint64_t each = sizeof(uint64_t) + row_bytes;
    if (bytes % each != 0 || header.n != bytes / each || header.n > records_per_message(each))
        fail(RB_PEER, "rank ", header.source, " sent an update that does not fit field ", header.field);
}

void check_records(const Header &header, size_t bytes, uint64_t content_bytes, uint64_t room) {
    // No more than there is room for, so the product does not wrap around.
    if (header.n == 0 || header.n > room ||
        bytes != rows_bytes(header.n) + header.n * (sizeof(uint64_t) + content_bytes))
        fail(RB_PEER, "rank ", header.source, " sent ", bytes, " bytes for ", header.n, " records of draw ",
             header.sequence, ", which has room for ", room);
}

void check_failed(const Header &header, size_t bytes) {
    if (bytes != header.n || bytes > REASON_BYTES)
        fail(RB_PEER, "rank ", header.source, " failed and sent ", bytes, " bytes of ", header.n, " to say why");
}

void check_empty(const Header &header, size_t bytes) {
    if (bytes != 0)
        fail(RB_PEER, "rank ", header.source, " sent ", bytes, " bytes with a message of kind ",
             static_cast<uint32_t>(header.kind), ", which has none");
}

Changes read_changes(const Header &header, const std::byte *body, size_t bytes, const Dissemination &dissemination,
                     uint32_t num_classes) {
    check_changes(header, bytes, dissemination, num_classes);
    const std::byte *const end = body + bytes;
    Changes changes;
    while (body != end) {
        Change change;
        ChangeHead &head = change;
        if (static_cast<size_t>(end - body) < sizeof head)
            fail(RB_PEER, "rank ", header.source, " sent changes that end early");
        std::memcpy(&head, body, sizeof head);
        body += sizeof head;
        if (!dissemination.may_tell(header.source, static_cast<uint32_t>(header.n), head))
            fail(RB_PEER, "rank ", header.source, " told of ", head.ranks, " ranks from rank ", head.first,
                 " on, of which it cannot know");
        if (head.finished > 1 || (head.finished && head.n))
            fail(RB_PEER, "rank ", header.source, " told of a draw of ", head.n, " of a rank that has finished");
        if (head.classes > num_classes || (head.classes && head.ranks != 1) ||
            static_cast<size_t>(end - body) < head.classes * sizeof(ClassCount))
            fail(RB_PEER, "rank ", header.source, " told of ", head.classes, " classes of ", head.ranks, " ranks in ",
                 end - body, " bytes");
        change.counts.resize(head.classes);
        if (head.classes) std::memcpy(change.counts.data(), body, head.classes * sizeof(ClassCount));
        body += head.classes * sizeof(ClassCount);
        for (const ClassCount &count : change.counts)
            if (count.label >= num_classes) fail(RB_PEER, "rank ", header.source, " counts class ", count.label);
        changes.push_back(std::move(change));
    }
    return changes;
}

std::string read_failed(const Header &header, const std::byte *body, size_t bytes) {
    check_failed(header, bytes);
    std::string reason(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) {
        const char letter = static_cast<char>(body[i]);
        reason[i] = letter >= ' ' && letter <= '~' ? letter : '?';  // for a terminal
    }
    return reason;
}

Update read_update(const Header &header, const std::byte *body, size_t bytes, uint64_t row_bytes) {
    check_update(header, bytes, row_bytes);
    return {header.field, {body, body + bytes}, header.n};
}

RecordsBody read_records(const Header &header, const std::byte *body, size_t bytes, uint64_t content_bytes,
                         uint64_t room) {
    check_records(header, bytes, content_bytes, room);
    RecordsBody read{std::vector<uint32_t>(header.n), body + rows_bytes(header.n), nullptr};
    read.content = read.names + header.n * sizeof(uint64_t);
    std::memcpy(read.rows.data(), body, header.n * sizeof(uint32_t));
    for (uint32_t row : read.rows)
        if (row >= room) fail(RB_PEER, "rank ", header.source, " sent row ", row, " of a draw of ", room);
    return read;
}

}  // namespace replay
