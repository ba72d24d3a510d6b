/* A host CPU with tile registers (AMX) has a floating-point state larger than the 2696 octets that
   User-Mode Linux 6.1 knows. The host's kernel hands out the part that was asked for, but takes back
   only a whole one (EFAULT otherwise), so that the guest panics at its first process. Preloaded into
   linux.uml, this ptrace() fills up what is written with zeros: tiles that were never used. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long call(long request, pid_t pid, void *addr, void *data)
{
    return syscall(SYS_ptrace, request, pid, addr, data);
}

long ptrace(enum __ptrace_request request, ...)
{
    static char whole[65536];   /* linux.uml is one thread a process, and the children never come here at once */
    static size_t size;         /* of the state on this host, once known */
    va_list args;
    va_start(args, request);
    pid_t pid = va_arg(args, pid_t);
    void *addr = va_arg(args, void *), *data = va_arg(args, void *);
    va_end(args);

    if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {   /* the C library's way: the word is the result */
        long word, rc = call(request, pid, addr, &word);
        return rc < 0 ? rc : word;
    }
    if (request != PTRACE_SETREGSET || (long)addr != NT_X86_XSTATE)
        return call(request, pid, addr, data);
    if (!size) {
        struct iovec probe = {whole, sizeof whole};
        if (call(PTRACE_GETREGSET, pid, addr, &probe) < 0)
            return -1;
        size = probe.iov_len;
    }
    const struct iovec *part = data;
    if (part->iov_len >= size)
        return call(request, pid, addr, data);
    memcpy(whole, part->iov_base, part->iov_len);
    memset(whole + part->iov_len, 0, size - part->iov_len);
    struct iovec padded = {whole, size};
    return call(request, pid, addr, &padded);
}
