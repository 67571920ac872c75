// How long a call waits for other ranks. Time in which this process stood still itself does not count: one that was
// stopped for an hour has not waited for an hour, and finds the answers of the others when it goes on.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>

namespace replay {

class Patience {
  public:
    using Clock = std::chrono::steady_clock;
    using Seconds = std::chrono::duration<double>;

    explicit Patience(double seconds) : limit_(seconds), end_(Clock::now() + ticks(limit_)) {}

    // Between two questions whether a rank lives; one that lives has answered by twice that.
    Clock::duration pause() const { return ticks(std::min(Seconds(0.5), limit_ / 4)); }
    Clock::time_point half() const { return end_ - ticks(limit_ / 2); }
    Clock::time_point end() const { return end_; }
    bool over() const { return Clock::now() >= end_; }
    // After a sleep that was to end at `due`. Whether it took much longer.
    bool overslept(Clock::time_point due) {
        const auto late = Clock::now() - due;
        if (late <= pause()) return false;
        end_ += late;
        return true;
    }

  private:
    static Clock::duration ticks(Seconds time) { return std::chrono::duration_cast<Clock::duration>(time); }

    const Seconds limit_;
    Clock::time_point end_;
};

// 4.0 s
std::string text_of(Patience::Seconds time);

}  // namespace replay
