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
#include <sstream>
#include <string>
#include <utility>

#include "error.h"
#include "mutex.h"
#include "transport.h"
#include "ucx_worker.h"
#include "waker.h"

namespace replay {

const bool has_transport = true;

namespace {

constexpr unsigned AM_ID = 0;

constexpr size_t MOST_PIECES = 60;  // beside the headers

class UcxTransport final : public Transport {
  public:
    UcxTransport(uint32_t ranks, bool local, Events events)
        : endpoints_(ranks), events_(std::move(events)), worker_(local) {
        worker_.receive(AM_ID, on_message, this);
    }

    ~UcxTransport() override {
        RecursiveLock lock(mutex_);
        for (Peer &peer : endpoints_)
            if (peer.endpoint) close(peer);
        while (Receipt *late = receipts_) {  // bodies that were still on their way
            receipts_ = late->next;
            delete late;
        }
        worker_.close();  // before what its handlers refer to
    }

    const std::vector<std::byte> &address() const override { return worker_.address(); }

    void connect(const std::vector<std::vector<std::byte>> &addresses, const std::vector<uint32_t> &near) override {
        RecursiveLock lock(mutex_);
        addresses_ = addresses;
        for (uint32_t peer = 0; peer < endpoints_.size(); ++peer) endpoints_[peer] = {this, peer, nullptr};
        for (uint32_t peer : near) make_endpoint(peer);
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
            RecursiveLock lock(mutex_);
            if (progressing_ && !endpoints_[peer].endpoint) {  // no handler of UCX may make one
                later_.emplace_back(peer, std::move(message));
                ++unsent_;
                return;
            }
            if (!has_endpoint(peer)) {
                if (message->sent) message->sent();
                wake();  // `progress` tells of the loss
                return;
            }
            auto sending = std::make_unique<Sending>(Sending{this, std::move(message), {}, {}});
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
            param.user_data = sending.get();
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
                sending.release();  // of on_sent from now on
                ++unsent_;
                kick = true;
            } else if (m.sent) {  // gone, or refused by a lost endpoint, of which its handler tells
                m.sent();
            }
        }
        // What is left to send is carried by `progress`, whose thread may have gone to sleep just before.
        if (kick) wake();
    }

    bool progress() override {
        RecursiveLock lock(mutex_);
        bool any = false;
        progressing_ = true;
        while (ucp_worker_progress(worker_.get())) any = true;
        progressing_ = false;
        for (auto &[peer, message] : std::exchange(later_, {})) {
            --unsent_;
            send(peer, std::move(message));
        }
        for (const auto &[peer, reason] : std::exchange(gone_, {})) events_.lost(peer, reason);
        if (refused_) std::rethrow_exception(std::exchange(refused_, nullptr));
        return any;
    }

    void settle() override {
        bool busy;
        {
            RecursiveLock lock(mutex_);
            // Events are told once per arming, and the one that the sleeper armed for may have been used up here.
            busy = ucp_worker_arm(worker_.get()) == UCS_ERR_BUSY;
        }
        if (busy) wake();
    }

    void wait(int milliseconds) override {
        {
            RecursiveLock lock(mutex_);
            const ucs_status_t status = ucp_worker_arm(worker_.get());
            if (status == UCS_ERR_BUSY) return;
            check_ucx(status, "cannot arm the worker");
        }
        pollfd descriptors[2] = {{worker_.descriptor(), POLLIN, 0}, {waker_.descriptor(), POLLIN, 0}};
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

    void make_endpoint(uint32_t peer) REQUIRES(mutex_) {
        ucp_ep_params_t params{};
        params.field_mask =
            UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
        params.address = reinterpret_cast<const ucp_address_t *>(addresses_.at(peer).data());
        params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
        params.err_handler = {on_lost, &endpoints_[peer]};
        const ucs_status_t status = ucp_ep_create(worker_.get(), &params, &endpoints_[peer].endpoint);
        if (status != UCS_OK) fail(RB_PEER, "cannot reach rank ", peer, ": ", ucs_status_string(status));
    }

    // Made when it is needed: in a large job a rank never talks to most of the others. False if the rank is gone.
    bool has_endpoint(uint32_t peer) REQUIRES(mutex_) {
        if (endpoints_[peer].endpoint) return true;
        try {
            make_endpoint(peer);
        } catch (const Error &error) {
            gone_.emplace_back(peer, error.what());
            return false;
        }
        return true;
    }

    void close(Peer &peer) {
        ucp_request_param_t param{};
        param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
        param.flags = UCP_EP_CLOSE_FLAG_FORCE;
        void *request = ucp_ep_close_nbx(peer.endpoint, &param);
        peer.endpoint = nullptr;
        if (!UCS_PTR_IS_PTR(request)) return;
        while (ucp_request_check_status(request) == UCS_INPROGRESS) ucp_worker_progress(worker_.get());
        ucp_request_free(request);
    }

    // All that UCX calls back goes through here. No exception may pass through it, which is C: `progress` throws it on.
    template <typename Handler> void handle(Handler handler) noexcept {
        mutex_.held();
        try {
            handler();
        } catch (...) {
            if (!refused_) refused_ = std::current_exception();
        }
    }

    static ucs_status_t on_message(void *self, const void *header, size_t header_bytes, void *data, size_t bytes,
                                   const ucp_am_recv_param_t *param) {
        auto *transport = static_cast<UcxTransport *>(self);
        const auto *head = static_cast<const std::byte *>(header);
        ucs_status_t status = UCS_OK;  // also for a message that is refused: UCX drops its body
        transport->handle([&] {
            if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)
                status = transport->fetch(head, header_bytes, data, bytes);
            else transport->events_.message(head, header_bytes, static_cast<const std::byte *>(data), bytes);
        });
        return status;
    }

    ucs_status_t fetch(const std::byte *header, size_t header_bytes, void *descriptor, size_t bytes) {
        mutex_.held();
        if (!events_.expected(header, header_bytes, bytes)) return UCS_OK;
        auto receipt = std::make_unique<Receipt>(
            Receipt{this, {header, header + header_bytes}, std::vector<std::byte>(bytes), nullptr, nullptr});
        ucp_request_param_t receive{};
        receive.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
        receive.cb.recv_am = on_body;
        receive.user_data = receipt.get();
        void *request = ucp_am_recv_data_nbx(worker_.get(), descriptor, receipt->body.data(), bytes, &receive);
        if (UCS_PTR_IS_ERR(request)) return UCS_PTR_STATUS(request);
        receipt->next = receipts_;
        if (receipts_) receipts_->previous = receipt.get();
        receipts_ = receipt.release();  // of on_body from now on
        return UCS_INPROGRESS;
    }

    static void on_body(void *request, ucs_status_t status, size_t, void *user_data) {
        const std::unique_ptr<Receipt> receipt(static_cast<Receipt *>(user_data));
        UcxTransport *transport = receipt->transport;
        transport->handle([&] {
            transport->mutex_.held();
            if (receipt->next) receipt->next->previous = receipt->previous;
            (receipt->previous ? receipt->previous->next : transport->receipts_) = receipt->next;
            if (status == UCS_OK)  // else the sender is lost, of which its endpoint's handler tells
                transport->events_.message(receipt->header.data(), receipt->header.size(), receipt->body.data(),
                                           receipt->body.size());
        });
        ucp_request_free(request);
    }

    static void on_sent(void *request, ucs_status_t, void *user_data) {
        const std::unique_ptr<Sending> sending(static_cast<Sending *>(user_data));
        --sending->transport->unsent_;
        sending->transport->handle([&] {
            if (sending->message->sent) sending->message->sent();
        });
        ucp_request_free(request);
    }

    static void on_lost(void *user_data, ucp_ep_h, ucs_status_t status) {
        const auto *peer = static_cast<Peer *>(user_data);
        peer->transport->handle([&] { peer->transport->events_.lost(peer->number, ucs_status_string(status)); });
    }

    std::vector<Peer> endpoints_;
    std::vector<std::vector<std::byte>> addresses_ GUARDED_BY(mutex_);
    const Events events_;
    UcxWorker worker_;
    Waker waker_;
    // Recursive: a handler that runs within `progress` may send.
    RecursiveMutex mutex_;
    std::atomic<size_t> unsent_{0};
    bool progressing_ GUARDED_BY(mutex_) = false;
    std::vector<std::pair<uint32_t, std::unique_ptr<Message>>> later_ GUARDED_BY(mutex_);  // of handlers, see `send`
    std::vector<std::pair<uint32_t, std::string>> gone_ GUARDED_BY(mutex_);                // to be told by `progress`
    Receipt *receipts_ GUARDED_BY(mutex_) = nullptr;
    std::exception_ptr refused_ GUARDED_BY(mutex_);  // what a handler has thrown
};

}  // namespace

std::unique_ptr<Transport> make_transport(uint32_t, uint32_t ranks, bool local, Transport::Events events) {
    return std::make_unique<UcxTransport>(ranks, local, std::move(events));
}

}  // namespace replay
