// The messages of wire.h, put together and taken apart. What arrives is checked here: nothing that a peer says is used
// as a length or a place before. Who does not know the token of the job is not listened to; a rank that says what
// cannot be is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dissemination.h"
#include "transport.h"
#include "updates.h"
#include "wire.h"

namespace replay {

std::unique_ptr<Message> header_message(const Header &header);
std::unique_ptr<Message> failed_message(Header header, const std::string &reason);
std::unique_ptr<Message> changes_message(const Header &header, const Changes &changes);

// How many records of so many bytes go into one message: it is long enough to be carried well, and short enough for the
// receiver to copy one while the next is on its way.
uint64_t records_per_message(uint64_t bytes);

// Of `n` records, `chosen` among `ids` and `rows`.
std::vector<std::byte> names_and_rows(const uint64_t *chosen, uint64_t n, const uint64_t *ids, const std::byte *rows,
                                      uint64_t row_bytes);
std::unique_ptr<Message> update_message(const Header &header, std::vector<std::byte> &&content);

// Rows in the draw and names of `header.n` records, without their content.
std::unique_ptr<Message> records_message(const Header &header, const uint32_t *rows, const uint64_t *ids);

// None for a message that is not of another rank of this job.
std::optional<Header> read_header(const std::byte *header, size_t bytes, const Token &token, uint32_t rank,
                                  uint32_t ranks);

// All of these throw RB_PEER for a message that cannot be what it says. Those of the lengths come first where a body is
// yet to be fetched: no memory is taken for one that cannot be.
void check_changes(const Header &header, size_t bytes, const Dissemination &dissemination, uint32_t num_classes);
void check_update(const Header &header, size_t bytes, uint64_t row_bytes);
void check_records(const Header &header, size_t bytes, uint64_t content_bytes, uint64_t room);
void check_failed(const Header &header, size_t bytes);
void check_empty(const Header &header, size_t bytes);

Changes read_changes(const Header &header, const std::byte *body, size_t bytes, const Dissemination &dissemination,
                     uint32_t num_classes);
std::string read_failed(const Header &header, const std::byte *body, size_t bytes);
Update read_update(const Header &header, const std::byte *body, size_t bytes, uint64_t row_bytes);

struct RecordsBody {
    std::vector<uint32_t> rows;  // [header.n], each below `room`
    const std::byte *names;      // [header.n] u64, not aligned
    const std::byte *content;    // what follows
};
// `content_bytes`: per record. `room`: rows of the draw.
RecordsBody read_records(const Header &header, const std::byte *body, size_t bytes, uint64_t content_bytes,
                         uint64_t room);

}  // namespace replay
