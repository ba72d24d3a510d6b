"""See layout.pxd."""
import errno
import os

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bundle cimport Bundle
from .cipher cimport Cipher, CipherKeys, CipherState
from .prefix cimport AddressEntry
from .service cimport COOKIE_KEY, Services
from .table cimport CRASHES, LAYOUT, NEXTHOPS, TUNNELS, Config, Crash, Header, NextHop, Session, Table, Tunnel, WorkerRecord

cdef uint64_t MAGIC = 0x6865616472616365        # "headrace"
cdef size_t PAGE = 4096
cdef WorkerRecord A_RECORD                      # for offsets only: what a null pointer's members have is undefined in C
cdef size_t ASLEEP = <size_t>&A_RECORD.asleep - <size_t>&A_RECORD

assert sizeof(Config) == 128 and sizeof(Session) == 512 and sizeof(NextHop) == 64
assert sizeof(CipherKeys) == 64 and sizeof(CipherState) == 320 and sizeof(Cipher) == 768
assert sizeof(Tunnel) == 128 and sizeof(WorkerRecord) == 4096
assert sizeof(Crash) == 256 and sizeof(Header) == 256 + CRASHES * sizeof(Crash)


class LayoutError(Exception):
    """A tables file that this program cannot use."""


def banks_for(max_sessions: int) -> int:
    """How many banks of 65,534 ids leave a quarter of them free."""
    need = -(-max_sessions * 5 // (4 * 65534))
    return 1 << (max(1, need) - 1).bit_length()


cdef uint64_t services_at(const Header* h) noexcept:
    """Where the section of services begins."""
    return <uint64_t>h.nexthops * PAGE + NEXTHOPS * sizeof(NextHop)


cdef uint64_t bundles_at(const Header* h) noexcept:
    """Where the section of bundles begins."""
    return services_at(h) + (2 * sizeof(Services) + PAGE - 1) // PAGE * PAGE


def create(path, *, max_sessions: int, workers: int) -> None:
    """Write an empty, sparse tables file; an older one of that name is replaced."""
    cdef Header h
    memset(&h, 0, sizeof(h))
    h.magic, h.layout, h.max_sessions, h.workers = MAGIC, LAYOUT, max_sessions, workers
    h.banks = banks_for(max_sessions)
    h.capacity = 1 << max(8 * max_sessions - 1, 1023).bit_length()
    h.sessions = PAGE
    h.addresses[0] = h.sessions + <uint64_t>h.banks * 65536 * sizeof(Session)
    h.addresses[1] = h.addresses[0] + <uint64_t>h.capacity * sizeof(AddressEntry)
    h.tunnels = h.addresses[1] + <uint64_t>h.capacity * sizeof(AddressEntry)
    h.used = h.tunnels + <uint64_t>TUNNELS * sizeof(Tunnel)
    h.ciphers = h.used + <uint64_t>h.banks * 8192
    h.nexthops = <uint32_t>((h.ciphers + <uint64_t>h.banks * 65536 * sizeof(Cipher) + PAGE - 1) // PAGE)
    h.worker_records = bundles_at(&h) + <uint64_t>h.banks * 65536 * sizeof(Bundle)
    h.size = h.worker_records + workers * sizeof(WorkerRecord)
    part, key = f"{path}.new", os.urandom(COOKIE_KEY)
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        room = os.statvfs(fd)
        need = max_sessions * (sizeof(Session) + sizeof(Cipher) + 3 * sizeof(AddressEntry)) + (4 << 20)
        if room.f_bavail * room.f_frsize < need:      # a hole that cannot be filled kills its writer
            raise OSError(errno.ENOSPC, f"{max_sessions} sessions need {need >> 20} MiB there", str(path))
        os.ftruncate(fd, h.size)
        os.pwrite(fd, (<uint8_t*>&h)[:sizeof(h)], 0)
        for i in range(2):            # the same key in both copies: a cookie outlives a change of what is offered
            os.pwrite(fd, key, services_at(&h) + i * sizeof(Services))
        for i in range(workers):      # no forwarder yet: nobody holds a pointer
            os.pwrite(fd, b"\1", h.worker_records + i * sizeof(WorkerRecord) + ASLEEP)
        os.rename(part, path)
    finally:
        os.close(fd)


cdef read_header(int fd, Header* h):
    """LayoutError: this program cannot use that file."""
    head = os.pread(fd, sizeof(Header), 0)
    if <size_t>len(head) < sizeof(Header):
        raise LayoutError("the tables file is cut off")
    memcpy(h, <const char*>head, sizeof(Header))
    if h.magic != MAGIC or h.layout != LAYOUT or os.fstat(fd).st_size < h.size:
        raise LayoutError(f"the tables file has layout {h.layout}, this program needs {LAYOUT}")


cdef find_sections(Table* t, uint8_t* base, const Header* h):
    """Where they are in this process."""
    t.header = <Header*>base
    t.sessions = <Session*>(base + h.sessions)
    t.addresses[0] = <AddressEntry*>(base + h.addresses[0])
    t.addresses[1] = <AddressEntry*>(base + h.addresses[1])
    t.tunnels = <Tunnel*>(base + h.tunnels)
    t.workers = <WorkerRecord*>(base + h.worker_records)
    t.used = <uint64_t*>(base + h.used)
    t.nexthops = <NextHop*>(base + h.nexthops * PAGE)
    t.ciphers = <Cipher*>(base + h.ciphers)
    t.services = <Services*>(base + services_at(h))
    t.bundles = <Bundle*>(base + bundles_at(h))
    t.bank_mask = h.banks - 1
    t.address_mask = h.capacity - 1
