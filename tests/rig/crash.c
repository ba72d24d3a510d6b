/* Preloaded into a forwarder: a write to the inner port, or a datagram to the wire, that holds one of these words is a fault in
   the thread that sends it, as a defect of its own would be. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

static void look(const struct iovec* v, size_t n, const char* word) {
    for (size_t i = 0; i < n; i++)
        if (memmem(v[i].iov_base, v[i].iov_len, word, strlen(word)))
            *(volatile int*)8 = 1;
}

ssize_t writev(int fd, const struct iovec* v, int n) {
    static ssize_t (*real)(int, const struct iovec*, int);
    if (!real)
        real = dlsym(RTLD_NEXT, "writev");
    look(v, n, "crash-up");
    return real(fd, v, n);
}

int sendmmsg(int fd, struct mmsghdr* m, unsigned int n, int flags) {
    static int (*real)(int, struct mmsghdr*, unsigned int, int);
    if (!real)
        real = dlsym(RTLD_NEXT, "sendmmsg");
    for (unsigned int i = 0; i < n; i++)
        look(m[i].msg_hdr.msg_iov, m[i].msg_hdr.msg_iovlen, "crash-down");
    return real(fd, m, n, flags);
}
