// What Clang's analysis of thread safety has to be told (`make lint`): which mutex guards a member, and which functions
// have to be called with it. Other compilers see nothing of it.
// https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
#pragma once

#if defined(__clang__)
#define REPLAY_ANNOTATION(x) __attribute__((x))
#else
#define REPLAY_ANNOTATION(x)
#endif

#define CAPABILITY(name) REPLAY_ANNOTATION(capability(name))
#define SCOPED_CAPABILITY REPLAY_ANNOTATION(scoped_lockable)
#define GUARDED_BY(mutex) REPLAY_ANNOTATION(guarded_by(mutex))
#define REQUIRES(...) REPLAY_ANNOTATION(requires_capability(__VA_ARGS__))
#define ACQUIRE(...) REPLAY_ANNOTATION(acquire_capability(__VA_ARGS__))
#define RELEASE(...) REPLAY_ANNOTATION(release_capability(__VA_ARGS__))
#define ASSERT_HELD(...) REPLAY_ANNOTATION(assert_capability(__VA_ARGS__))
#define EXCLUDES(...) REPLAY_ANNOTATION(locks_excluded(__VA_ARGS__))
