#include "file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"

namespace replay {

Disk disk{fsync, std::rename};

namespace {

// A renamed file is known by its new name after a crash only if the folder is on disk as well.
bool sync_folder_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return false;
    const bool synced = disk.sync(descriptor) == 0 || errno == EINVAL;  // EINVAL: a file system that has no such thing
    const int error = errno;
    close(descriptor);
    errno = error;
    return synced;
}

}  // namespace

void Checksum::take(const void *data, size_t bytes) {
    const auto *next = static_cast<const unsigned char *>(data);
    uint64_t word;
    for (; bytes >= sizeof word; bytes -= sizeof word, next += sizeof word) {
        std::memcpy(&word, next, sizeof word);
        value_ = (value_ ^ word) * 0x100000001b3;
        value_ ^= value_ >> 29;
    }
    for (; bytes > 0; --bytes) value_ = (value_ ^ *next++) * 0x100000001b3;
}

FileWriter::FileWriter(const std::string &path)
    : path_(path), part_(path + ".part"), file_(std::fopen(part_.c_str(), "wb")) {
    if (!file_) fail(RB_SYSTEM, "cannot write ", part_, ": ", std::strerror(errno));
}

FileWriter::~FileWriter() {
    if (!file_) return;
    std::fclose(file_);
    std::remove(part_.c_str());
}

void FileWriter::bytes(const void *data, size_t size) {
    if (size == 0) return;
    checksum_.take(data, size);
    if (std::fwrite(data, 1, size, file_) != size) fail(RB_SYSTEM, "cannot write ", part_, ": ", std::strerror(errno));
}

void FileWriter::text(const std::string &value) {
    number(value.size());
    bytes(value.data(), value.size());
}

void FileWriter::commit() {
    const uint64_t checksum = checksum_.value();
    const bool written = std::fwrite(&checksum, sizeof checksum, 1, file_) == 1 && std::fflush(file_) == 0 &&
                         disk.sync(fileno(file_)) == 0;
    const int error = errno;
    std::fclose(file_);
    file_ = nullptr;
    if (written && disk.rename(part_.c_str(), path_.c_str()) == 0) {
        if (sync_folder_of(path_)) return;
        fail(RB_SYSTEM, "cannot make sure of ", path_, ": its folder: ", std::strerror(errno));
    }
    const int reason = written ? errno : error;
    std::remove(part_.c_str());
    fail(RB_SYSTEM, "cannot write ", path_, ": ", std::strerror(reason));
}

FileReader::FileReader(const std::string &path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) fail(RB_SYSTEM, "cannot read ", path, ": ", std::strerror(errno));
    std::fseek(file_.get(), 0, SEEK_END);
    const long size = std::ftell(file_.get());
    std::rewind(file_.get());
    if (size < static_cast<long>(sizeof(uint64_t))) damaged("it is too short");
    left_ = static_cast<uint64_t>(size) - sizeof(uint64_t);
}

void FileReader::bytes(void *data, size_t size) {
    if (size == 0) return;
    check_left(size, 1);
    if (std::fread(data, 1, size, file_.get()) != size) {
        if (std::ferror(file_.get())) fail(RB_SYSTEM, "cannot read ", path_, ": ", std::strerror(errno));
        damaged("it ends too early");
    }
    left_ -= size;
    checksum_.take(data, size);
}

uint64_t FileReader::number() {
    uint64_t value;
    bytes(&value, sizeof value);
    return value;
}

std::string FileReader::text() {
    const uint64_t size = number();
    check_left(size, 1);
    std::string value(size, '\0');
    bytes(value.data(), size);
    return value;
}

void FileReader::check_left(uint64_t count, uint64_t size) const {
    if (count > left_ / size) damaged("it ends too early");
}

void FileReader::finish() {
    uint64_t checksum;
    if (left_ != 0 || std::fread(&checksum, sizeof checksum, 1, file_.get()) != 1) damaged("its length is wrong");
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // a fuzzer would not get past this
    if (checksum != checksum_.value()) damaged("its checksum is wrong");
#endif
}

void FileReader::damaged(const std::string &why) const {
    fail(RB_INVALID, path_, " is not a saved shard of a replay buffer, or damaged: ", why);
}

}  // namespace replay
