// How messages get from rank to rank. Messages between two ranks may overtake each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace replay {

struct Span {
    const void *data;
    size_t bytes;
};

// A message: a small header, which is copied, and a body in pieces that stay where they are until it is sent.
struct Message {
    std::vector<std::byte> header;
    std::vector<Span> body;
    std::vector<std::byte> owned;  // memory for pieces of the body that exist only for this message
    std::function<void()> sent;    // called once the pieces may change, if set
};

class Transport {
  public:
    // Called by `progress` alone, in the thread that calls it. The memory is the transport's.
    struct Events {
        std::function<void(const std::byte *header, size_t header_bytes, const std::byte *body, size_t body_bytes)>
            message;
        // Whether a message whose body is not here yet may come; before memory is taken for it.
        std::function<bool(const std::byte *header, size_t header_bytes, size_t body_bytes)> expected;
        std::function<void(uint32_t peer, const std::string &reason)> lost;
    };

    virtual ~Transport() = default;
    virtual const std::vector<std::byte> &address() const = 0;
    // `near`: ranks of whose loss this one hears at once; of the others from when it first sends to them.
    virtual void connect(const std::vector<std::vector<std::byte>> &addresses, const std::vector<uint32_t> &near) = 0;
    // Whether ranks of one host may read each other's memory.
    virtual bool shares_memory() const { return false; }
    // Safe from any thread, also from within an event.
    virtual void send(uint32_t peer, std::unique_ptr<Message> message) = 0;
    // Carry what can be carried now; whether anything was.
    virtual bool progress() = 0;
    // After `progress` in another thread than the one that may be in `wait`: that one has to notice what comes next.
    virtual void settle() {}
    // Sleep until there is something to do, `wake` is called, or the time is over. Called where `progress` is.
    virtual void wait(int milliseconds) = 0;
    virtual void wake() = 0;
    // Messages that are not sent yet.
    virtual size_t unsent() const = 0;
};

// Between processes, by UCX; `local`: of one host. Throws where the library was built without it.
std::unique_ptr<Transport> make_transport(uint32_t rank, uint32_t ranks, bool local, Transport::Events events);
extern const bool has_transport;

}  // namespace replay
