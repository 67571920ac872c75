// UCX's context and worker: opened with our settings, closed in order. Not synchronised.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "error.h"

namespace replay {

inline void check_ucx(ucs_status_t status, const char *what) {
    if (status != UCS_OK) fail(RB_SYSTEM, "UCX: ", what, ": ", ucs_status_string(status));
}

// Settings that differ from UCX's own, unless the user's environment has them.
struct Setting {
    const char *name, *value;
};
inline constexpr Setting SETTINGS[] = {
    // Replies of some 100 KB over TCP would be announced first and fetched then, which takes 7 ms instead of 0.1.
    {"RNDV_THRESH", "inf"},
    // A message of records goes into one segment, to be sent and received by one call each and not put together again.
    {"TCP_TX_SEG_SIZE", "256k"},
    {"TCP_RX_SEG_SIZE", "256k"},
    // Long messages are sent from where their pieces lie, which saves a copy, and by one call each.
    {"ZCOPY_THRESH", "64k"},
    {"TCP_MAX_IOV", "64"},
};
// Where all ranks are on one host: nobody else can reach them.
inline constexpr Setting LOOPBACK = {"NET_DEVICES", "lo"};

class UcxWorker {
  public:
    explicit UcxWorker(bool local) {
        ucp_config_t *config;
        check_ucx(ucp_config_read(nullptr, nullptr, &config), "cannot read the configuration");
        std::vector<Setting> settings(std::begin(SETTINGS), std::end(SETTINGS));
        if (local) settings.push_back(LOOPBACK);
        for (const Setting &setting : settings)
            if (!std::getenv((std::string("UCX_") + setting.name).c_str()))
                ucp_config_modify(config, setting.name, setting.value);
        ucp_params_t params{};
        params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
        params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
        params.name = "replay";
        ucp_context_h context = nullptr;
        const ucs_status_t status = ucp_init(&params, config, &context);
        ucp_config_release(config);
        check_ucx(status, "cannot start");
        context_.reset(context);
        ucp_worker_params_t how{};
        how.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
        how.thread_mode = UCS_THREAD_MODE_SERIALIZED;
        ucp_worker_h worker = nullptr;
        check_ucx(ucp_worker_create(context_.get(), &how, &worker), "cannot make a worker");
        worker_.reset(worker);
        check_ucx(ucp_worker_get_efd(worker, &descriptor_), "no descriptor to sleep on");
        ucp_address_t *address;
        size_t length;
        check_ucx(ucp_worker_get_address(worker, &address, &length), "no address");
        const auto *bytes = reinterpret_cast<const std::byte *>(address);
        address_.assign(bytes, bytes + length);
        ucp_worker_release_address(worker, address);
    }

    // Messages of this number go to `handler`, whole.
    void receive(unsigned number, ucp_am_recv_callback_t handler, void *argument) {
        ucp_am_handler_param_t param{};
        param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                           UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
        param.id = number;
        param.flags = UCP_AM_FLAG_WHOLE_MSG;
        param.cb = handler;
        param.arg = argument;
        check_ucx(ucp_worker_set_am_recv_handler(worker_.get(), &param), "no handler of messages");
    }

    ucp_worker_h get() const { return worker_.get(); }
    int descriptor() const { return descriptor_; }  // to sleep on
    const std::vector<std::byte> &address() const { return address_; }

    void close() {
        worker_.reset();
        context_.reset();
    }

  private:
    struct Cleanup {
        void operator()(ucp_context *context) const { ucp_cleanup(context); }
        void operator()(ucp_worker *worker) const { ucp_worker_destroy(worker); }
    };
    std::unique_ptr<ucp_context, Cleanup> context_;
    std::unique_ptr<ucp_worker, Cleanup> worker_;
    int descriptor_ = -1;
    std::vector<std::byte> address_;
};

}  // namespace replay
