// What rank 0 of three does with any messages whatever of the other two, who know the token: it may find that they are
// broken, and nothing else. Compiled without access control, because the buffer is driven here in place of its thread.
#include <cmath>
#include <limits>

#include "../src/error.h"
#include "input.h"
#include "setting.h"

namespace {

using namespace replay;
using namespace replay::fuzz;

constexpr uint32_t RANKS = 3;

// Reads what is sent, and has sent it.
class Nowhere final : public Transport {
  public:
    const std::vector<std::byte> &address() const override { return address_; }
    void connect(const std::vector<std::vector<std::byte>> &, const std::vector<uint32_t> &) override {}
    void send(uint32_t peer, std::unique_ptr<Message> message) override {
        require(peer < RANKS && peer != 0, "messages go to other ranks");
        unsigned sum = 0;
        for (const Span &piece : message->body)
            for (size_t i = 0; i < piece.bytes; ++i) sum += static_cast<const unsigned char *>(piece.data)[i];
        read_ = sum;
        if (message->sent) message->sent();
    }
    bool progress() override { return false; }
    void wait(int) override {}
    void wake() override {}
    size_t unsent() const override { return 0; }

  private:
    std::vector<std::byte> address_;
    volatile unsigned read_ = 0;
};

class Driver {
  public:
    explicit Driver(uint8_t policies)
        : options_(options(0, RANKS, policies)),
          buffer_(options_, [](auto...) { return std::make_unique<Nowhere>(); }) {
        Lock lock(buffer_.mutex_);
        for (uint32_t rank = 0; rank < RANKS; ++rank) buffer_.peers_[rank].capacity = CAPACITY;
        buffer_.connected_ = true;
        buffer_.mapped_shards_[1].swap(shard());  // of rank 1, as if on the same host
    }
    ~Driver() { buffer_.mapped_shards_[1].swap(shard()); }

    void act(Input &in) {
        switch (in.byte() % ACTIONS) {
            case ADD: {
                const uint8_t count = in.byte() % 8, first = in.byte();
                return quiet() ? add(buffer_, count, first) : void();
            }
            case REQUEST: return buffer_.request(in.byte() % 16);
            case UPDATE: return update(in);
            case RECEIVE: return receive();
            case COPY: return quiet() && all_complete() ? void(buffer_.copy()) : void();
            case LOSE: return buffer_.on_lost(1 + in.byte() % 2, "Connection reset");
            case ANNOUNCE: return announce(in);
            default: return message(in);
        }
    }

  private:
    // Made once: it costs more than all the rest.
    static std::vector<Memory> &shard() {
        static std::vector<Memory> columns = [] {
            std::vector<Memory> made;
            for (uint64_t bytes : ROW_BYTES) made.emplace_back(CAPACITY * bytes + sizeof(SharedToken));
            return made;
        }();
        return columns;
    }
    bool quiet() {
        Lock lock(buffer_.mutex_);
        return buffer_.quiet();
    }
    bool all_complete() {
        Lock lock(buffer_.mutex_);
        return buffer_.draws_.all_complete();
    }

    static Header header(Input &in) {
        Header header{{}, static_cast<Kind>(in.byte()), in.byte()};
        header.sequence = in.number();
        header.n = in.number();
        header.draw = in.number();
        header.field = static_cast<uint32_t>(in.number());
        return header;
    }

    void message(Input &in) {
        const Header head = header(in);
        const std::vector<std::byte> body = in.bytes(in.number());
        buffer_.on_message(reinterpret_cast<const std::byte *>(&head), sizeof head, body.data(), body.size());
        buffer_.serve(std::numeric_limits<uint64_t>::max());
    }

    // A body that would have to be fetched, of any size.
    void announce(Input &in) {
        const Header head = header(in);
        const uint64_t bytes = in.number();
        if (buffer_.expects(reinterpret_cast<const std::byte *>(&head), sizeof head, bytes))
            require(bytes < 1 << 20, "memory is taken only for what there can be");
    }

    void update(Input &in) {
        const uint8_t count = in.byte() % 8, field = in.byte() % (FIELDS + 1);
        std::vector<uint64_t> ids(count);
        for (uint64_t &id : ids) id = in.number();
        const std::vector<std::byte> rows(count * 8u);
        if (quiet()) buffer_.update(field, count, ids.data(), rows.data());
    }

    void receive() {
        {
            Lock lock(buffer_.mutex_);
            if (buffer_.draws_.empty() || !buffer_.draws_.front().complete()) return;
        }
        rb_records records{};
        buffer_.receive(records);
        for (uint64_t i = 0; i < records.count; ++i)
            require(std::isfinite(records.weights[i]) && records.weights[i] > 0, "weights are above 0");
        rb_release(records.lease);
    }

    const Options options_;
    Buffer buffer_;
};

}  // namespace

// No shared memory, for which each shard would need a dozen calls of the system: the library takes other memory then.
extern "C" int memfd_create(const char *, unsigned) noexcept { return -1; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Input in(data, bytes);
    Driver driver(in.byte());
    try {
        while (!in.empty()) {
            try {
                driver.act(in);
            } catch (const Error &error) {
                if (error.status != RB_INVALID) throw;  // a mistake of this caller, which changes nothing
            }
        }
    } catch (const Error &error) {
        require(error.status == RB_PEER, error.what());
    }
    return 0;
}
