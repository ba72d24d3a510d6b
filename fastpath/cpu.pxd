"""Which of a kernel's variants runs: what the CPU has, or what HEADRACE_CPU says, decided once when this is imported."""

cpdef enum Level:
    LEVEL_PORTABLE = 0        # plain C
    LEVEL_SSE41 = 1           # RC4 side by side
    LEVEL_SHANI = 2           # and SHA-1 by SHA-NI

cdef int level() noexcept nogil
