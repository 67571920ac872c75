// Active messages of UCX, by RDMA or TCP as UCX chooses (its UCX_* variables apply). Its own shared memory is not among
// them, because it cannot tell that a peer is gone; records within a host are read where they lie, see mapping.h.
// The worker is guarded by one mutex, because UCX builds without multi-threaded workers exist.
#include <poll.h>
#include <ucp/api/ucp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <sstream>
#include <utility>

#include "error.h"
#include "transport.h"
#include "waker.h"

namespace replay {

const bool has_transport = true;

namespace {

constexpr unsigned AM_ID = 0;

void check(ucs_status_t status, const char *what) {
    if (status != UCS_OK) fail(RB_SYSTEM, "UCX: ", what, ": ", ucs_status_string(status));
}

// Settings that differ from UCX's own, unless the user's environment has them.
struct Setting {
    const char *name, *value;
};
constexpr Setting SETTINGS[] = {
    // Replies of some 100 KB over TCP would be announced first and fetched then, which takes 7 ms instead of 0.1.
    {"RNDV_THRESH", "inf"},
    // A message of records goes into one segment, to be sent and received by one call each and not put together again.
    {"TCP_TX_SEG_SIZE", "256k"},
    {"TCP_RX_SEG_SIZE", "256k"},
    // Long messages are sent from where their pieces lie, which saves a copy, and by one call each.
    {"ZCOPY_THRESH", "64k"},
    {"TCP_MAX_IOV", "64"},
};
constexpr size_t MOST_PIECES = 60;  // beside the headers

class UcxTransport final : public Transport {
  public:
    UcxTransport(uint32_t rank, uint32_t ranks, Events events)
        : rank_(rank), endpoints_(ranks), events_(std::move(events)) {
        open();
        ucp_address_t *address;
        size_t length;
        check(ucp_worker_get_address(worker_, &address, &length), "no address");
        const auto *bytes = reinterpret_cast<const std::byte *>(address);
        address_.assign(bytes, bytes + length);
        ucp_worker_release_address(worker_, address);
    }

    ~UcxTransport() override {
        for (Peer &peer : endpoints_)
            if (peer.endpoint) close(peer);
        while (Receipt *late = receipts_) {  // bodies that were still on their way
            receipts_ = late->next;
            delete late;
        }
        if (worker_) ucp_worker_destroy(worker_);
        if (context_) ucp_cleanup(context_);
    }

    const std::vector<std::byte> &address() const override { return address_; }

    void connect(const std::vector<std::vector<std::byte>> &addresses) override {
        std::lock_guard lock(mutex_);
        for (uint32_t peer = 0; peer < endpoints_.size(); ++peer) {
            if (peer == rank_) continue;
            endpoints_[peer] = {this, peer, nullptr};
            ucp_ep_params_t params{};
            params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                UCP_EP_PARAM_FIELD_ERR_HANDLER;
            params.address = reinterpret_cast<const ucp_address_t *>(addresses[peer].data());
            params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
            params.err_handler = {on_lost, &endpoints_[peer]};
            const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoints_[peer].endpoint);
            if (status != UCS_OK) fail(RB_PEER, "cannot reach rank ", peer, ": ", ucs_status_string(status));
        }
    }

    // UCX_TLS names what it may be carried by: with tcp alone ranks of one host are as ranks of several.
    bool shares_memory() const override {
        const char *given = std::getenv("UCX_TLS");
        if (!given) return true;
        std::stringstream list(given);
        const bool all_but = *given == '^';
        if (all_but) list.get();
        for (std::string name; std::getline(list, name, ',');)
            for (const char *own : {"all", "sm", "shm", "mm", "posix"})
                if (name == own) return !all_but;
        return all_but;
    }

    void send(uint32_t peer, std::unique_ptr<Message> message) override {
        bool kick = false;
        {
            std::lock_guard lock(mutex_);
            Sending *sending = new Sending{this, std::move(message), {}, {}};
            Message &m = *sending->message;
            if (m.body.size() > MOST_PIECES) {
                sending->join();
            } else {
                for (const Span &piece : m.body)
                    sending->pieces.push_back({const_cast<void *>(piece.data), piece.bytes});
            }
            ucp_request_param_t param{};
            param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_DATATYPE;
            param.cb.send = on_sent;
            param.user_data = sending;
            const void *data = sending->pieces.data();
            size_t count = sending->pieces.size();
            param.datatype = UCP_DATATYPE_IOV;
            if (count == 1) {
                param.datatype = ucp_dt_make_contig(1);
                data = sending->pieces[0].buffer;
                count = sending->pieces[0].length;
            }
            ucs_status_ptr_t request = ucp_am_send_nbx(endpoints_[peer].endpoint, AM_ID, m.header.data(),
                                                       m.header.size(), data, count, &param);
            if (UCS_PTR_IS_PTR(request)) {
                ++unsent_;
                kick = true;
            } else {  // gone, or refused by a lost endpoint, of which its handler tells
                if (m.sent) m.sent();
                delete sending;
            }
        }
        // What is left to send is carried by `progress`, whose thread may have gone to sleep just before.
        if (kick) wake();
    }

    bool progress() override {
        std::lock_guard lock(mutex_);
        bool any = false;
        while (ucp_worker_progress(worker_)) any = true;
        if (refused_) std::rethrow_exception(std::exchange(refused_, nullptr));
        return any;
    }

    void settle() override {
        bool busy;
        {
            std::lock_guard lock(mutex_);
            // Events are told once per arming, and the one that the sleeper armed for may have been used up here.
            busy = ucp_worker_arm(worker_) == UCS_ERR_BUSY;
        }
        if (busy) wake();
    }

    void wait(int milliseconds) override {
        {
            std::lock_guard lock(mutex_);
            const ucs_status_t status = ucp_worker_arm(worker_);
            if (status == UCS_ERR_BUSY) return;
            check(status, "cannot arm the worker");
        }
        pollfd descriptors[2] = {{events_fd_, POLLIN, 0}, {waker_.descriptor(), POLLIN, 0}};
        poll(descriptors, 2, milliseconds);
        if (descriptors[1].revents) waker_.clear();
    }

    void wake() override { waker_.wake(); }
    size_t unsent() const override { return unsent_; }

  private:
    struct Peer {
        UcxTransport *transport = nullptr;
        uint32_t number = 0;
        ucp_ep_h endpoint = nullptr;
    };
    struct Sending {
        UcxTransport *transport;
        std::unique_ptr<Message> message;
        std::vector<ucp_dt_iov_t> pieces;
        std::vector<std::byte> joined;

        // One piece in place of many short ones, which would cost a call for every few of them.
        void join() {
            for (const Span &piece : message->body) {
                const auto *begin = static_cast<const std::byte *>(piece.data);
                joined.insert(joined.end(), begin, begin + piece.bytes);
            }
            pieces.assign(1, {joined.data(), joined.size()});
        }
    };
    // A message whose body is fetched after its header came.
    struct Receipt {
        UcxTransport *transport;
        std::vector<std::byte> header, body;
        Receipt *next, *previous;
    };

    void open() {
        ucp_config_t *config;
        check(ucp_config_read(nullptr, nullptr, &config), "cannot read the configuration");
        for (const Setting &setting : SETTINGS)
            if (!std::getenv((std::string("UCX_") + setting.name).c_str()))
                ucp_config_modify(config, setting.name, setting.value);
        ucp_params_t params{};
        params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
        params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
        params.name = "replay";
        ucs_status_t status = ucp_init(&params, config, &context_);
        ucp_config_release(config);
        check(status, "cannot start");
        ucp_worker_params_t worker{};
        worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
        worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
        check(ucp_worker_create(context_, &worker, &worker_), "cannot make a worker");
        check(ucp_worker_get_efd(worker_, &events_fd_), "no descriptor to sleep on");
        ucp_am_handler_param_t handler{};
        handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                             UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
        handler.id = AM_ID;
        handler.flags = UCP_AM_FLAG_WHOLE_MSG;
        handler.cb = on_message;
        handler.arg = this;
        check(ucp_worker_set_am_recv_handler(worker_, &handler), "no handler of messages");
    }

    void close(Peer &peer) {
        ucp_request_param_t param{};
        param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
        param.flags = UCP_EP_CLOSE_FLAG_FORCE;
        void *request = ucp_ep_close_nbx(peer.endpoint, &param);
        peer.endpoint = nullptr;
        if (!UCS_PTR_IS_PTR(request)) return;
        while (ucp_request_check_status(request) == UCS_INPROGRESS) ucp_worker_progress(worker_);
        ucp_request_free(request);
    }

    // No exception may pass through UCX, which is C: `progress` throws it on.
    void deliver(const std::byte *header, size_t header_bytes, const std::byte *body, size_t bytes) {
        try {
            events_.message(header, header_bytes, body, bytes);
        } catch (...) {
            if (!refused_) refused_ = std::current_exception();
        }
    }

    static ucs_status_t on_message(void *self, const void *header, size_t header_bytes, void *data, size_t bytes,
                                   const ucp_am_recv_param_t *param) {
        auto *transport = static_cast<UcxTransport *>(self);
        const auto *head = static_cast<const std::byte *>(header);
        if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
            transport->deliver(head, header_bytes, static_cast<const std::byte *>(data), bytes);
            return UCS_OK;
        }
        auto *receipt = new Receipt{
            transport, {head, head + header_bytes}, std::vector<std::byte>(bytes), transport->receipts_, nullptr};
        if (receipt->next) receipt->next->previous = receipt;
        transport->receipts_ = receipt;
        ucp_request_param_t receive{};
        receive.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
        receive.cb.recv_am = on_body;
        receive.user_data = receipt;
        void *request = ucp_am_recv_data_nbx(transport->worker_, data, receipt->body.data(), bytes, &receive);
        return UCS_PTR_IS_ERR(request) ? UCS_PTR_STATUS(request) : UCS_INPROGRESS;
    }

    static void on_body(void *request, ucs_status_t status, size_t, void *user_data) {
        auto *receipt = static_cast<Receipt *>(user_data);
        if (status == UCS_OK)  // else the sender is lost, of which its endpoint's handler tells
            receipt->transport->deliver(receipt->header.data(), receipt->header.size(), receipt->body.data(),
                                        receipt->body.size());
        if (receipt->next) receipt->next->previous = receipt->previous;
        (receipt->previous ? receipt->previous->next : receipt->transport->receipts_) = receipt->next;
        delete receipt;
        ucp_request_free(request);
    }

    static void on_sent(void *request, ucs_status_t, void *user_data) {
        auto *sending = static_cast<Sending *>(user_data);
        --sending->transport->unsent_;
        if (sending->message->sent) sending->message->sent();
        delete sending;
        ucp_request_free(request);
    }

    static void on_lost(void *user_data, ucp_ep_h, ucs_status_t status) {
        const auto *peer = static_cast<Peer *>(user_data);
        peer->transport->events_.lost(peer->number, ucs_status_string(status));
    }

    const uint32_t rank_;
    std::vector<Peer> endpoints_;
    const Events events_;
    ucp_context_h context_ = nullptr;
    ucp_worker_h worker_ = nullptr;
    int events_fd_ = -1;
    Waker waker_;
    std::vector<std::byte> address_;
    // Recursive: a handler that runs within `progress` may send.
    std::recursive_mutex mutex_;
    std::atomic<size_t> unsent_{0};
    Receipt *receipts_ = nullptr;
    std::exception_ptr refused_;  // by the event of a message
};

}  // namespace

std::unique_ptr<Transport> make_transport(uint32_t rank, uint32_t ranks, Transport::Events events) {
    return std::make_unique<UcxTransport>(rank, ranks, std::move(events));
}

}  // namespace replay
