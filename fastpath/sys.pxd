"""What the operating system offers and Cython does not declare."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <sched.h>
    #include <poll.h>
    #include <string.h>
    #include <time.h>
    #include <unistd.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <netinet/in.h>
    #include <linux/if_packet.h>
    #include <linux/sockios.h>
    #include <linux/virtio_net.h>
    #ifndef SOL_UDP
    #define SOL_UDP 17
    #endif
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #define UDP_GRO 104
    #endif
    #ifndef VIRTIO_NET_HDR_GSO_UDP_L4
    #define VIRTIO_NET_HDR_GSO_UDP_L4 5
    #endif
    #if defined(__x86_64__)
    #define headrace_pause() __builtin_ia32_pause()
    #else
    #define headrace_pause() ((void)0)
    #endif
    """
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        uint32_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        uint32_t msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr*)
    cmsghdr* CMSG_NXTHDR(msghdr*, cmsghdr*)
    uint8_t* CMSG_DATA(cmsghdr*)
    size_t CMSG_SPACE(size_t)
    size_t CMSG_LEN(size_t)
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int recvmmsg(int, mmsghdr*, unsigned int, int, timespec*)
    int sendmmsg(int, mmsghdr*, unsigned int, int)
    ssize_t sendmsg(int, msghdr*, int)
    ssize_t read(int, void*, size_t)
    ssize_t write(int, const void*, size_t)
    ssize_t writev(int, iovec*, int)
    int clock_gettime(int, timespec*)
    union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event*)
    int epoll_wait(int, epoll_event*, int, int)
    int eventfd(unsigned int, int)
    int ioctl(int, unsigned long, ...)
    int close(int)
    void* mmap(void*, size_t, int, int, int, int64_t)
    int munmap(void*, size_t)
    int madvise(void*, size_t, int)
    void pause "headrace_pause"()
    int errno
    enum:
        EAGAIN, EINTR, EMSGSIZE, EIO, EINVAL, ENOBUFS, ECONNREFUSED, EPERM
        MSG_DONTWAIT, CLOCK_MONOTONIC, EPOLLIN, EPOLLERR, EPOLLHUP, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EFD_NONBLOCK, EFD_CLOEXEC, EPOLL_CLOEXEC
        AF_INET, AF_INET6, AF_PACKET, SOL_UDP, UDP_SEGMENT, UDP_GRO, IPPROTO_IP, IPPROTO_IPV6, IP_PKTINFO, IPV6_PKTINFO, IP_TOS, IPV6_TCLASS
        SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID
        PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE, SIOCOUTQ
        VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_DATA_VALID
        VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_GSO_ECN
    struct tpacket_auxdata:
        uint32_t tp_status
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        uint32_t ipi6_ifindex
    struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset

cdef extern from * nogil:
    """
    #define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
    #define sub_release(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_RELEASE)
    #define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define prefetch(p) __builtin_prefetch((p), 0, 3)
    #define prefetch_write(p) __builtin_prefetch((p), 1, 3)
    #define likely(x) __builtin_expect(!!(x), 1)
    #define unlikely(x) __builtin_expect(!!(x), 0)
    #define headrace_ctz64(x) __builtin_ctzll(x)

    /* Buffers are large and used again and again: in a build with the address sanitizer, what lies behind the octets
       read into one is out of bounds. */
    #if defined(__SANITIZE_ADDRESS__)
    #include <sanitizer/asan_interface.h>
    #define headrace_poison(p, n) __asan_poison_memory_region((p), (n))
    #define headrace_unpoison(p, n) __asan_unpoison_memory_region((p), (n))
    #else
    #define headrace_poison(p, n) ((void)0)
    #define headrace_unpoison(p, n) ((void)0)
    #endif
    """
    uint8_t load_acquire8 "load_acquire"(const uint8_t*)
    uint32_t load_acquire32 "load_acquire"(const uint32_t*)
    uint64_t load_acquire64 "load_acquire"(const uint64_t*)
    void store_release8 "store_release"(uint8_t*, uint8_t)
    void store_release32 "store_release"(uint32_t*, uint32_t)
    void store_release64 "store_release"(uint64_t*, uint64_t)
    uint32_t add_relaxed32 "add_relaxed"(uint32_t*, uint32_t)
    uint32_t sub_release32 "sub_release"(uint32_t*, uint32_t)
    void full_fence()
    void prefetch(const void*)
    void prefetch_write(const void*)
    bint likely(bint)
    bint unlikely(bint)
    int ctz64 "headrace_ctz64"(uint64_t)
    void poison "headrace_poison"(const void*, size_t)
    void unpoison "headrace_unpoison"(const void*, size_t)
