// A descriptor that wakes a thread out of poll(2).
#pragma once

namespace replay {

class Waker {
  public:
    Waker();
    ~Waker();
    Waker(const Waker &) = delete;
    Waker &operator=(const Waker &) = delete;

    void wake();
    void clear();
    int descriptor() const { return read_; }

  private:
    int read_ = -1, write_ = -1;
};

}  // namespace replay
