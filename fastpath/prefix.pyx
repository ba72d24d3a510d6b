"""Control's part of the index of prefixes; prefix.pxd says how it is read."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .sys cimport store_release8, store_release32

assert sizeof(AddressEntry) == 32 and sizeof(AddressIndex) == 64


cdef prefix_key(bytes address, uint8_t length, uint64_t* key):
    cdef uint64_t whole[2]
    if len(address) != 16 or length > 128:
        raise ValueError("a prefix is 16 octets and a length up to 128 here")
    memcpy(whole, <const char*>address, 16)
    cut_key(whole, length, key)


cdef inline bint is_four(const uint64_t* key, uint8_t length) noexcept:
    """Whether a prefix is of IPv4, or lies where IPv4 does: `by_address` looks for an address with nothing in its first half there."""
    return key[0] == 0 and length >= 96


cdef bint listed(AddressIndex* index, const uint64_t* key, uint8_t length) noexcept:
    """Whether a search looks at prefixes of this length."""
    cdef const uint8_t* lengths = index.lengths6
    cdef int i, n = index.lengths6_used
    if is_four(key, length):
        lengths = index.lengths
        n = index.lengths_used
    for i in range(n):
        if lengths[i] == length:
            return True
    return False


cdef AddressEntry* find_entry(AddressEntry* entries, uint32_t mask, const uint64_t* key, uint8_t length) noexcept:
    """The entry or tombstone of this prefix, or NULL."""
    cdef uint32_t at = address_hash(key, length) & mask
    while entries[at].used:
        if entries[at].key[0] == key[0] and entries[at].key[1] == key[1] and entries[at].length == length:
            return &entries[at]
        at = (at + 1) & mask
    return NULL


cdef void put_entry(AddressEntry* entries, uint32_t mask, AddressIndex* index, const uint64_t* key, uint8_t length,
                    uint32_t slot) noexcept:
    """Insert; a tombstone of the same key may be taken again, no other."""
    cdef AddressEntry* e = find_entry(entries, mask, key, length)
    cdef uint32_t at
    if e == NULL:
        at = address_hash(key, length) & mask
        while entries[at].used:
            at = (at + 1) & mask
        e = &entries[at]
        e.key[0], e.key[1], e.length = key[0], key[1], length
        index.used += 1
    if e.used != 1:
        index.live += 1
    store_release32(&e.slot, slot)
    store_release8(&e.used, 1)


cdef list_lengths(const AddressEntry* entries, uint32_t filled, const uint64_t* key, uint8_t length, AddressIndex* index):
    """Begin an index with the lengths that are in use, and that of one prefix more. ValueError: they are too many."""
    cdef uint32_t i
    cdef uint8_t in_use[2][129]
    memset(in_use, 0, sizeof(in_use))
    memset(index, 0, sizeof(AddressIndex))
    for i in range(filled):
        if entries[i].used == 1:
            in_use[is_four(entries[i].key, entries[i].length)][entries[i].length] = 1
    in_use[is_four(key, length)][length] = 1
    lengths6, lengths = [[n for n in range(128, -1, -1) if in_use[family][n]] for family in range(2)]
    if len(lengths) > LENGTHS or len(lengths6) > LENGTHS6:
        raise ValueError(f"no room for more than {LENGTHS} prefix lengths of IPv4 and {LENGTHS6} of IPv6")
    for i, n in enumerate(lengths):
        index.lengths[i] = n
    for i, n in enumerate(lengths6):
        index.lengths6[i] = n
    index.lengths_used, index.lengths6_used = <uint8_t>len(lengths), <uint8_t>len(lengths6)


cdef void copy_entries(const AddressEntry* source, uint32_t filled, AddressEntry* target, uint32_t mask, AddressIndex* index) noexcept:
    """What is in use of one copy into another, empty one."""
    cdef uint32_t i
    for i in range(filled):
        if source[i].used == 1:
            put_entry(target, mask, index, source[i].key, source[i].length, source[i].slot)
