// Tests without a framework: TEST(name) { ... } with CHECKs in it, and RUN_TESTS at the end of the file. The program
// runs all tests, or those named on its command line. The first failed check ends it, from whichever thread, with
// status 1.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace replay::test {

struct Test {
    const char *name;
    void (*run)();
};

inline std::vector<Test> &all_tests() {
    static std::vector<Test> tests;
    return tests;
}

struct Registered {
    Registered(const char *name, void (*run)()) { all_tests().push_back({name, run}); }
};

[[noreturn]] inline void failed(const char *file, int line, const std::string &text) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s:%d: %s\n", file, line, text.c_str());
    std::_Exit(1);  // other threads may be running: nothing can be torn down in order
}

template <typename A, typename B>
void check_equal(const char *file, int line, const char *what, const A &a, const B &b) {
    bool equal;
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B>)  // whichever of them has a sign
        equal = (a >= A{}) == (b >= B{}) && static_cast<uint64_t>(a) == static_cast<uint64_t>(b);
    else equal = a == b;
    if (equal) return;
    std::ostringstream text;
    text << "expected " << what << ", got " << a << " and " << b;
    failed(file, line, text.str());
}

inline int run_tests(int argc, char **argv) {
    int run = 0;
    for (const Test &test : all_tests()) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], test.name) == 0;
        if (!wanted) continue;
        std::printf("%-60s ", test.name);
        std::fflush(stdout);
        const auto started = std::chrono::steady_clock::now();
        test.run();
        std::printf("%6.2f s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
        ++run;
    }
    if (run == 0) std::fprintf(stderr, "no test has such a name\n");
    return run ? 0 : 1;
}

// Sanitizers make everything some times slower: there the long loops are shorter.
#if defined(__SANITIZE_THREAD__)
constexpr bool SANITIZED = true;
constexpr int SHORTER = 8;
#elif defined(__SANITIZE_ADDRESS__)
constexpr bool SANITIZED = true;
constexpr int SHORTER = 4;
#else
constexpr bool SANITIZED = false;
constexpr int SHORTER = 1;
#endif

}  // namespace replay::test

#define TEST(name)                                                        \
    static void name();                                                   \
    static const replay::test::Registered registered_##name{#name, name}; \
    static void name()

#define RUN_TESTS \
    int main(int argc, char **argv) { return replay::test::run_tests(argc, argv); }

#define CHECK(condition) ((condition) ? void() : replay::test::failed(__FILE__, __LINE__, "expected " #condition))

// With a message of what the values were: CHECK_THAT(a < b, "a is " << a)
#define CHECK_THAT(condition, message)                             \
    do {                                                           \
        if (!(condition)) {                                        \
            std::ostringstream text_;                              \
            text_ << "expected " #condition ": " << message;       \
            replay::test::failed(__FILE__, __LINE__, text_.str()); \
        }                                                          \
    } while (false)

#define CHECK_EQUAL(a, b) replay::test::check_equal(__FILE__, __LINE__, #a " == " #b, a, b)

// That `call` throws a replay::Error of a status, whose message has a text in it.
#define CHECK_FAILS(call, expected_status, part)                                                                  \
    do {                                                                                                          \
        int status_ = RB_OK;                                                                                      \
        std::string message_ = "no error";                                                                        \
        try {                                                                                                     \
            call;                                                                                                 \
        } catch (const replay::Error &error) {                                                                    \
            status_ = error.status;                                                                               \
            message_ = error.what();                                                                              \
        }                                                                                                         \
        CHECK_THAT(                                                                                               \
            status_ == (expected_status) && message_.find(part) != std::string::npos,                             \
            #call " gave status " << status_ << ", " << message_ << "; wanted " #expected_status ", " << (part)); \
    } while (false)
