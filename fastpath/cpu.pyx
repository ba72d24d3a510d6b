"""The environment variable HEADRACE_CPU takes a level's name in small letters: portable, sse41 or shani."""
import os

cdef extern from * nogil:
    """
    #if defined(__x86_64__)
    #include <cpuid.h>
    static int headrace_cpu(void) {
        unsigned a, b, c, d;
        __builtin_cpu_init();
        if (!__builtin_cpu_supports("sse4.1"))
            return 0;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & 1u << 29 ? 2 : 1;     /* bit 29 of EBX: SHA */
    }
    #else
    static int headrace_cpu(void) { return 0; }
    #endif
    """
    int best "headrace_cpu"()

NAMES = ("portable", "sse41", "shani")
cdef int in_force = best()


cdef int level() noexcept nogil:
    return in_force


def name() -> str:
    """The level in force."""
    return NAMES[in_force]


def available() -> tuple[str, ...]:
    """The levels that this CPU has."""
    return NAMES[:best() + 1]


def use(str name) -> None:
    """Put another level in force, for tests and benchmarks. ValueError: there is none of this name, or the CPU does not have it."""
    global in_force
    if name not in available():
        raise ValueError(f"no level {name!r}: this CPU has {', '.join(available())}")
    in_force = NAMES.index(name)


if os.environ.get("HEADRACE_CPU"):
    try:
        use(os.environ["HEADRACE_CPU"])
    except ValueError as error:
        raise ValueError(f"HEADRACE_CPU: {error}") from None
