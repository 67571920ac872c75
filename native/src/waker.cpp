#include "waker.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"

namespace replay {

// A pipe, which every system has.
Waker::Waker() {
    int ends[2];
    if (pipe(ends) != 0) fail(RB_SYSTEM, "cannot make a pipe: ", std::strerror(errno));
    read_ = ends[0];
    write_ = ends[1];
    for (int end : ends) {
        fcntl(end, F_SETFL, O_NONBLOCK);
        fcntl(end, F_SETFD, FD_CLOEXEC);
    }
}

Waker::~Waker() {
    close(read_);
    close(write_);
}

void Waker::wake() {
    const char one = 1;
    // A full pipe wakes as well as one more byte would.
    while (write(write_, &one, 1) < 0 && errno == EINTR) {
    }
}

void Waker::clear() {
    char sink[64];
    while (read(read_, sink, sizeof sink) > 0) {
    }
}

}  // namespace replay
