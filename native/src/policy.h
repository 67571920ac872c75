// Policies by name. A policy registers itself from the one file that holds it, so nothing else has to know its name:
//
//     const InsertionPolicy::Register<Fifo> fifo("fifo");
//
// The linker drops an object file that nobody refers to out of a static library: link the object files themselves.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace replay {

// Numbers that policies ask for, by name: of both policies of a buffer together.
using PolicyOptions = std::map<std::string, double>;

// The policies of one kind. `Setting` is what the constructor of a policy takes.
template <typename Policy, typename Setting> class Registry {
  public:
    using Make = std::unique_ptr<Policy> (*)(const Setting &setting);
    struct Entry {
        std::vector<std::string> options;  // that have to be given
        Make make;
    };

    explicit Registry(std::string kind) : kind_(std::move(kind)) {}

    // Throws RB_INTERNAL for a name that is taken: then the program ends before main.
    void add(const std::string &name, std::vector<std::string> options, Make make) {
        if (!entries_.emplace(name, Entry{std::move(options), make}).second)
            fail(RB_INTERNAL, "two ", kind_, " policies have the name ", name);
    }

    // Throws RB_INVALID, with the names there are.
    const Entry &find(const std::string &name) const {
        const auto found = entries_.find(name);
        if (found != entries_.end()) return found->second;
        std::string valid;
        for (const auto &[other, entry] : entries_) valid += (valid.empty() ? "" : ", ") + other;
        fail(RB_INVALID, kind_, " policy ", name, " does not exist; valid: ", valid);
    }

    // In alphabetical order; nullptr past the last.
    const char *name(size_t place) const {
        if (place >= entries_.size()) return nullptr;
        return std::next(entries_.begin(), static_cast<std::ptrdiff_t>(place))->first.c_str();
    }

  private:
    const std::string kind_;
    std::map<std::string, Entry> entries_;
};

// An option that has to be a whole number of at least `least`; throws RB_INVALID.
uint64_t whole_option(const PolicyOptions &options, const std::string &name, uint64_t least);

// Throws RB_INVALID for names that do not exist, and unless the options are just those that the two policies declare.
void check_policies(const std::string &insertion, const std::string &sampling, const PolicyOptions &options);

}  // namespace replay
