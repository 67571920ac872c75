// What this process holds.
#pragma once

#include <dirent.h>
#include <unistd.h>

#include <fstream>

#include "check.h"

namespace replay::test {

inline size_t entries(const char *folder) {
    DIR *listed = opendir(folder);
    CHECK(listed);
    size_t count = 0;
    while (readdir(listed)) ++count;
    closedir(listed);
    return count;
}

inline size_t open_descriptors() { return entries("/proc/self/fd"); }

inline size_t resident_bytes() {
    size_t pages, resident;
    std::ifstream("/proc/self/statm") >> pages >> resident;
    return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace replay::test
