// The first inputs of the fuzzers: what rank 0 of three is sent and does in a few real steps, and real files.
//
//     seeds FOLDER_OF_MESSAGES FOLDER_OF_SHARDS
#include <fstream>
#include <iterator>
#include <string>

#include "../tests/local_transport.h"
#include "input.h"
#include "setting.h"

namespace {

using namespace replay;
using namespace replay::fuzz;

void write(const std::string &path, const std::vector<uint8_t> &content) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char *>(content.data()), static_cast<std::streamsize>(content.size()));
    require(file.good(), path.c_str());
}

// As messages.cpp reads it; `direct`: in place of the rows of records, where they lie.
void put_message(Output &out, const std::byte *header, const std::byte *body, size_t bytes, bool direct) {
    Header head;
    std::memcpy(&head, header, sizeof head);
    if (direct && head.kind == Kind::records && head.source == 1) {
        head.kind = Kind::places;
        bytes -= head.n * (ROW_BYTES[Y] + ROW_BYTES[X] + ROW_BYTES[VALUE]);
    }
    out.byte(MESSAGE).byte(static_cast<uint8_t>(head.kind)).byte(static_cast<uint8_t>(head.source));
    out.number(head.sequence).number(head.n).number(head.draw).number(head.field);
    out.number(bytes).bytes(body, bytes);
}

std::vector<uint8_t> messages(uint8_t policies, bool direct) {
    Output out;
    std::mutex mutex;  // of `out`
    out.byte(policies);
    test::Network network(3);
    const MakeTransport make = [&](uint32_t rank, uint32_t ranks, bool local, Transport::Events events) {
        if (rank == 0)
            events.message = [&, take = events.message](const auto *header, size_t header_bytes, const auto *body,
                                                        size_t bytes) {
                {
                    std::lock_guard lock(mutex);
                    put_message(out, header, body, bytes, direct);
                }
                take(header, header_bytes, body, bytes);
            };
        return network.transports()(rank, ranks, local, std::move(events));
    };
    std::vector<std::unique_ptr<Buffer>> buffers;
    std::vector<std::vector<std::byte>> addresses;
    for (uint32_t rank = 0; rank < 3; ++rank) {
        buffers.push_back(std::make_unique<Buffer>(options(rank, 3, policies), make));
        addresses.push_back(buffers.back()->address());
    }
    for (const auto &buffer : buffers) buffer->connect(addresses);
    const auto note = [&](std::initializer_list<uint8_t> action) {
        std::lock_guard lock(mutex);
        for (uint8_t byte : action) out.byte(byte);
    };
    for (uint8_t step = 0; step < 3; ++step) {
        note({ADD, 4, step});
        for (const auto &buffer : buffers) add(*buffer, 4, step);
        note({REQUEST, 5});
        for (const auto &buffer : buffers) buffer->request(5);
        std::vector<uint64_t> ids;
        for (const auto &buffer : buffers) {
            rb_records records{};
            buffer->receive(records);
            ids.assign(records.ids, records.ids + records.count);
            rb_release(records.lease);
        }
        note({RECEIVE, COPY});
        const std::vector<std::byte> rows(ids.size() * ROW_BYTES[VALUE]);
        buffers[2]->update(VALUE, ids.size(), ids.data(), rows.data());
    }
    std::vector<std::thread> threads;
    for (const auto &buffer : buffers) threads.emplace_back([&] { buffer->close(); });
    for (std::thread &thread : threads) thread.join();
    return out.content();
}

std::vector<uint8_t> shard(uint8_t how, const Saved &saved, const std::string &path) {
    write_saved(path, saved);
    std::ifstream file(path, std::ios::binary);
    std::vector<uint8_t> content{how};
    content.insert(content.end(), std::istreambuf_iterator<char>(file), {});
    return content;
}

}  // namespace

int main(int count, char **words) {
    require(count == 3, "two folders are given");
    const std::string of_messages = std::string(words[1]) + "/", of_shards = std::string(words[2]) + "/";
    for (uint8_t policies = 0; policies < NUM_POLICIES; ++policies) {
        const std::string name = std::to_string(policies);
        for (bool direct : {false, true})
            write(of_messages + name + (direct ? "_direct" : ""), messages(policies, direct));
        Buffer buffer(options(0, 1, policies), nullptr);
        write(of_shards + name + "_empty", shard(policies, buffer.copy(), of_shards + name + "_empty"));
        for (uint8_t step = 0; step < 4; ++step) add(buffer, 4, step);
        buffer.request(3);
        buffer.request(9);
        write(of_shards + name + "_full", shard(policies, buffer.copy(), of_shards + name + "_full"));
        const auto how = static_cast<uint8_t>(TWO_RANKS + 1 + policies);
        static_assert((TWO_RANKS + 1) % NUM_POLICIES == 0);  // so that these are the policies of the other file
        write(of_shards + name + "_two", shard(how, of_two(policies, 0), of_shards + name + "_two"));
    }
}
