// Philox4x32-10 (Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3): random numbers as a function of a
// key and a counter, so that every rank can compute every other rank's numbers and nothing but counters has to be
// saved.
#pragma once

#include <array>
#include <cstdint>

namespace replay {

enum class Purpose : uint32_t { insertion = 1, draw = 2 };

inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, uint64_t seed) {
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

// The stream of one rank and purpose. `place` names a record (insertion) or a draw; up to 2^16 numbers belong to each.
class Stream {
  public:
    Stream(uint64_t seed, uint32_t rank, Purpose purpose)
        : seed_(seed), who_(rank | static_cast<uint32_t>(purpose) << 24) {}

    // Number `i` of `place`: 64 random bits.
    uint64_t bits(uint64_t place, uint32_t i) const {
        const auto block =
            philox({static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32), i >> 1, who_}, seed_);
        const int half = (i & 1) * 2;
        return block[half] | uint64_t{block[half + 1]} << 32;
    }

    // Uniform in [0, bound); off by less than bound / 2^64 in probability.
    uint64_t below(uint64_t bound, uint64_t place, uint32_t i) const {
        return static_cast<uint64_t>(static_cast<unsigned __int128>(bits(place, i)) * bound >> 64);
    }

  private:
    friend class Numbers;
    uint64_t seed_;
    uint32_t who_;
};

// The numbers of one place, from number 0 on: those of `Stream::bits`, made some at a time with the same operation on
// each, which compilers turn into vector instructions.
class Numbers {
  public:
    Numbers(const Stream &stream, uint64_t place) : stream_(stream), place_(place) {}

    // Uniform in [0, bound), as `Stream::below`.
    uint64_t below(uint64_t bound) {
        if (next_ == AT_A_TIME) refill();
        return static_cast<uint64_t>(static_cast<unsigned __int128>(numbers_[next_++]) * bound >> 64);
    }

  private:
    static constexpr uint32_t BLOCKS = 8, AT_A_TIME = 2 * BLOCKS;

    void refill() {
        uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
        for (uint32_t i = 0; i < BLOCKS; ++i) {
            c0[i] = static_cast<uint32_t>(place_);
            c1[i] = static_cast<uint32_t>(place_ >> 32);
            c2[i] = block_ + i;
            c3[i] = stream_.who_;
        }
        uint32_t k0 = static_cast<uint32_t>(stream_.seed_), k1 = static_cast<uint32_t>(stream_.seed_ >> 32);
        for (int round = 0; round < 10; ++round) {
            for (uint32_t i = 0; i < BLOCKS; ++i) {
                const uint64_t a = uint64_t{0xD2511F53} * c0[i], b = uint64_t{0xCD9E8D57} * c2[i];
                c0[i] = static_cast<uint32_t>(b >> 32) ^ c1[i] ^ k0;
                c1[i] = static_cast<uint32_t>(b);
                c2[i] = static_cast<uint32_t>(a >> 32) ^ c3[i] ^ k1;
                c3[i] = static_cast<uint32_t>(a);
            }
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        for (uint32_t i = 0; i < BLOCKS; ++i) {
            numbers_[2 * i] = c0[i] | uint64_t{c1[i]} << 32;
            numbers_[2 * i + 1] = c2[i] | uint64_t{c3[i]} << 32;
        }
        block_ += BLOCKS;
        next_ = 0;
    }

    const Stream &stream_;
    const uint64_t place_;
    uint32_t block_ = 0, next_ = AT_A_TIME;
    uint64_t numbers_[AT_A_TIME];
};

}  // namespace replay
