#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "check.h"

namespace replay::test {

// A folder that is gone after the test.
struct Folder {
    Folder() {
        const char *where = std::getenv("TMPDIR");
        path = std::string(where ? where : "/tmp") + "/replay-XXXXXX";
        CHECK(mkdtemp(path.data()));
    }
    ~Folder() { CHECK(std::system(("rm -r '" + path + "'").c_str()) == 0); }
    std::string operator/(const std::string &name) const { return path + "/" + name; }
    std::string path;
};

}  // namespace replay::test
