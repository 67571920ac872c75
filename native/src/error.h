// Errors inside the library are exceptions; the C functions turn them into a status and a message.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "../include/replay.h"

namespace replay {

class Error : public std::runtime_error {
  public:
    Error(int status, const std::string &message) : std::runtime_error(message), status(status) {}
    const int status;
};

// fail(RB_INVALID, "capacity must be at least 1, got ", n)
template <typename... Parts> [[noreturn]] void fail(int status, const Parts &...parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Error(status, text.str());
}

}  // namespace replay
