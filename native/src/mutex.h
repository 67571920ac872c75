// std::mutex and its companions in a form that Clang's analysis of thread safety understands.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "thread_annotations.h"

namespace replay {

class CAPABILITY("mutex") Mutex {
  public:
    void lock() ACQUIRE() { mutex_.lock(); }
    void unlock() RELEASE() { mutex_.unlock(); }

  private:
    friend class Condition;
    std::mutex mutex_;
};

// For handlers that run with the mutex held and may call what takes it again.
class CAPABILITY("mutex") RecursiveMutex {
  public:
    void lock() ACQUIRE() { mutex_.lock(); }
    void unlock() RELEASE() { mutex_.unlock(); }
    // For Clang, in what is called back with the mutex held.
    void held() ASSERT_HELD() {}

  private:
    std::recursive_mutex mutex_;
};

// Holds the mutex to the end of the block.
template <typename M> class SCOPED_CAPABILITY BasicLock {
  public:
    explicit BasicLock(M &mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
    ~BasicLock() RELEASE() { mutex_.unlock(); }
    BasicLock(const BasicLock &) = delete;
    BasicLock &operator=(const BasicLock &) = delete;

  private:
    M &mutex_;
};
using Lock = BasicLock<Mutex>;
using RecursiveLock = BasicLock<RecursiveMutex>;

// Gives the mutex away to the end of the block, also where that is left by an exception.
class SCOPED_CAPABILITY Unlock {
  public:
    explicit Unlock(Mutex &mutex) RELEASE(mutex) : mutex_(mutex) { mutex_.unlock(); }
    ~Unlock() RELEASE() { mutex_.lock(); }  // takes it again: so Clang reads a release in such a destructor
    Unlock(const Unlock &) = delete;
    Unlock &operator=(const Unlock &) = delete;

  private:
    Mutex &mutex_;
};

class Condition {
  public:
    void notify_one() { condition_.notify_one(); }
    void notify_all() { condition_.notify_all(); }

    void wait(Mutex &mutex) REQUIRES(mutex) {
        std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
        condition_.wait(lock);
        lock.release();
    }
    // False if the time is over.
    bool wait_until(Mutex &mutex, std::chrono::steady_clock::time_point limit) REQUIRES(mutex) {
        std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
        const bool in_time = condition_.wait_until(lock, limit) == std::cv_status::no_timeout;
        lock.release();
        return in_time;
    }

  private:
    std::condition_variable condition_;
};

}  // namespace replay
