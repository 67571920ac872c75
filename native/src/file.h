// Binary files that are written whole or not at all, with a checksum at the end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace replay {

class Checksum {  // FNV-1a over words: damage is found, malice is not
  public:
    void take(const void *data, size_t bytes);
    uint64_t value() const { return value_; }

  private:
    uint64_t value_ = 0xcbf29ce484222325;
};

// The calls to the system that decide whether a file survives a crash; tests replace them to see their order.
struct Disk {
    int (*sync)(int descriptor);
    int (*rename)(const char *from, const char *to);
};
extern Disk disk;

class FileWriter {
  public:
    explicit FileWriter(const std::string &path);  // writes to path.part
    ~FileWriter();                                 // which is gone, unless `commit` came

    void bytes(const void *data, size_t size);
    void number(uint64_t value) { bytes(&value, sizeof value); }
    void text(const std::string &value);
    template <typename List> void list(const List &values) {
        number(values.size());
        bytes(values.data(), values.size() * sizeof(typename List::value_type));
    }
    // The file is in place, and stays there through a crash of the system. Throws RB_SYSTEM; if the last step fails,
    // that its folder is on disk, the file is in place all the same.
    void commit();

  private:
    const std::string path_, part_;
    std::FILE *file_;
    Checksum checksum_;
};

class FileReader {
  public:
    explicit FileReader(const std::string &path);

    void bytes(void *data, size_t size);
    uint64_t number();
    std::string text();
    template <typename T, typename List = std::vector<T>> List list() {
        const uint64_t size = number();
        check_left(size, sizeof(T));
        List values(size);
        bytes(values.data(), size * sizeof(T));
        return values;
    }
    void finish();  // the checksum is right and nothing follows
    [[noreturn]] void damaged(const std::string &why) const;

  private:
    void check_left(uint64_t count, uint64_t size) const;

    struct Close {
        void operator()(std::FILE *file) const { std::fclose(file); }
    };
    const std::string path_;
    std::unique_ptr<std::FILE, Close> file_;
    uint64_t left_;
    Checksum checksum_;
};

}  // namespace replay
