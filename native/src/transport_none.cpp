// In place of transport_ucx.cpp where there is no UCX.
#include "error.h"
#include "transport.h"

namespace replay {

const bool has_transport = false;

std::unique_ptr<Transport> make_transport(uint32_t, uint32_t ranks, bool, Transport::Events) {
    fail(RB_INVALID, ranks,
         " ranks need UCX, and this library was built without it: install libucx-cu12 (pip) or "
         "libucx-dev (Linux only) and build it again");
}

}  // namespace replay
