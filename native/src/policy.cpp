#include "policy.h"

#include <cmath>

#include "insertion.h"
#include "sampling.h"

namespace replay {

uint64_t whole_option(const PolicyOptions &options, const std::string &name, uint64_t least) {
    const double value = options.at(name);
    if (!(value >= static_cast<double>(least) && value <= 0x1p53) || value != std::floor(value))
        fail(RB_INVALID, "option ", name, " must be a whole number of at least ", least, ", got ", value);
    return static_cast<uint64_t>(value);
}

void check_policies(const std::string &insertion, const std::string &sampling, const PolicyOptions &options) {
    const std::string chosen = "insertion policy " + insertion + " with sampling policy " + sampling;
    PolicyOptions unknown = options;
    for (const auto &declared :
         {InsertionPolicy::registry().find(insertion).options, SamplingPolicy::registry().find(sampling).options})
        for (const std::string &name : declared) {
            if (options.count(name) == 0) fail(RB_INVALID, chosen, " needs the option ", name);
            unknown.erase(name);
        }
    if (!unknown.empty())
        fail(RB_INVALID, chosen, " has no option ", unknown.begin()->first, ", got ", unknown.begin()->second);
}

}  // namespace replay
