// The messages of wire.h, put together and taken apart. What arrives is checked here: nothing that a peer says is used
// as a length or a place before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "peers.h"
#include "transport.h"
#include "wire.h"

namespace replay {

std::unique_ptr<Message> header_message(const Header &header);
std::unique_ptr<Message> request_message(const Header &header, const std::vector<ClassCount> &counts);

// Of the records `chosen` among `ids` and `rows`.
std::vector<std::byte> names_and_rows(const std::vector<uint64_t> &chosen, const uint64_t *ids, const std::byte *rows,
                                      uint64_t row_bytes);
std::unique_ptr<Message> update_message(const Header &header, std::vector<std::byte> &&content);

// Rows in the draw and names of `header.n` records, without their content.
std::unique_ptr<Message> records_message(const Header &header, const uint32_t *rows, const uint64_t *ids);

// All of these throw RB_PEER for a message that cannot be what it says.
Header read_header(const std::byte *header, size_t bytes, uint32_t rank, uint32_t ranks);
Request read_request(const Header &header, const std::byte *body, size_t bytes, uint32_t num_classes);
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
