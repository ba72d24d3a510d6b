"""The index of prefixes that lead to sessions: open addressing, and a list of the prefix lengths in use for each family.

There are two copies. Entries of the one in force are never overwritten: a deletion leaves a tombstone, and only the same prefix may
take it again, so that a worker that searches meanwhile finds what was there or what is. To get rid of tombstones, or to list one
more length, the other copy is filled and swapped in (table.pyx).
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .sys cimport load_acquire8, prefetch

cdef enum:
    LENGTHS = 16              # prefix lengths in use at once, IPv4
    LENGTHS6 = 32             # and IPv6

cdef struct AddressEntry:     # 32 octets; the key is a prefix, host bits zero
    uint64_t key[2]
    uint32_t slot
    uint8_t length            # prefix length, 128 for a single address
    uint8_t used              # published with release: 0 never, 1 in use, 2 tombstone
    uint8_t pad[10]

# One of the two copies of the prefixes that lead to sessions on hr0.
cdef struct AddressIndex:     # 64 octets
    uint32_t used             # entries and tombstones, control's own
    uint32_t live             # entries
    uint8_t lengths_used      # stored with release
    uint8_t lengths[LENGTHS]  # of IPv4 prefixes, 96 more than written, longest first
    uint8_t lengths6_used
    uint8_t lengths6[LENGTHS6]
    uint8_t pad[6]

cdef prefix_key(bytes address, uint8_t length, uint64_t* key)
cdef bint listed(AddressIndex* index, const uint64_t* key, uint8_t length) noexcept
cdef AddressEntry* find_entry(AddressEntry* entries, uint32_t mask, const uint64_t* key, uint8_t length) noexcept
cdef void put_entry(AddressEntry* entries, uint32_t mask, AddressIndex* index, const uint64_t* key, uint8_t length, uint32_t slot) noexcept
cdef list_lengths(const AddressEntry* entries, uint32_t filled, const uint64_t* key, uint8_t length, AddressIndex* index)
cdef void copy_entries(const AddressEntry* source, uint32_t filled, AddressEntry* target, uint32_t mask, AddressIndex* index) noexcept


cdef inline uint32_t address_hash(const uint64_t* key, uint8_t length) noexcept nogil:
    cdef uint64_t h = (key[0] ^ length) * <uint64_t>0x9E3779B97F4A7C15 ^ key[1]
    h = (h ^ h >> 32) * <uint64_t>0xD6E8FEB86659FD93
    return <uint32_t>(h ^ h >> 32)


cdef inline void cut_key(const uint64_t* address, uint8_t length, uint64_t* key) noexcept nogil:
    """The first `length` bits of 16 octets in network order."""
    cdef int i, bits
    for i in range(2):
        bits = length - 64 * i
        if bits >= 64:
            key[i] = address[i]
        elif bits <= 0:
            key[i] = 0
        else:
            key[i] = address[i] & bswap64(~(<uint64_t>0xFFFFFFFFFFFFFFFF >> bits))


cdef inline void prefetch_entry(const AddressEntry* entries, uint32_t mask, const AddressIndex* index, const uint64_t* key) noexcept nogil:
    """Ask for the entry where the search begins: of IPv4 that of a single address."""
    cdef uint64_t first[2]
    cdef uint8_t length
    if key[0] == 0:
        prefetch(&entries[address_hash(key, 128) & mask])
        return
    length = index.lengths6[0]
    cut_key(key, length, first)
    prefetch(&entries[address_hash(first, length) & mask])


cdef inline uint32_t longest_match(const AddressEntry* entries, uint32_t mask, AddressIndex* index, const uint64_t* address) noexcept nogil:
    """The slot that the longest matching prefix leads to, or 0. Each family has lengths of its own, so that single IPv4 addresses
    cost an IPv6 packet no look, and IPv6's prefixes none the other way.

    Budget: 8 ns when the entry is in the cache and all prefixes of the family have one length."""
    cdef const AddressEntry* e
    cdef uint64_t key[2]
    cdef uint32_t at
    cdef uint8_t length, used
    cdef const uint8_t* lengths = index.lengths
    cdef int i, n
    if address[0]:
        lengths = index.lengths6
        n = load_acquire8(&index.lengths6_used)
    else:
        n = load_acquire8(&index.lengths_used)
    for i in range(n):
        length = lengths[i]
        cut_key(address, length, key)
        at = address_hash(key, length) & mask
        while True:
            e = &entries[at]
            used = load_acquire8(&e.used)
            if used == 0:
                break
            if used == 1 and e.key[0] == key[0] and e.key[1] == key[1] and e.length == length:
                return e.slot
            at = (at + 1) & mask
    return 0

cdef extern from *:
    """
    #define headrace_bswap64 __builtin_bswap64
    """
    uint64_t bswap64 "headrace_bswap64"(uint64_t) nogil
