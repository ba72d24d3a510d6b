"""What PPPoE offers, and to whom (RFC 2516 section 5), without state: a PADI's answer, and whether a PADR's cookie is ours.

    PADI -> read_tags -> choose a service -> push_pado, whose AC-Cookie says all that would have to be remembered
    PADR -> read_tags -> right_cookie -> control

The cookie is a keyed hash over who asks (station and interface), Host-Uniq, Relay-Session-Id, and the step of time, which stands in front
of it. It is good for the step in which it was made and the next one: half a minute to a minute.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from .bytes cimport load16, store16
from .pppoe cimport NETWORK, PPPOE, STATION, push_pppoe
from .service cimport SERVICE_ANY, SERVICE_EXACT, SERVICE_LISTED, SERVICE_UNLISTED, Service, Services, VlanRange, is_listed
from .siphash cimport Siphash, siphash_add, siphash_begin, siphash_end

cdef enum:
    PADI = 0x09
    PADO = 0x07
    PADR = 0x19
    PADS = 0x65
    PADT = 0xA7
    TAG_END = 0x0000
    TAG_SERVICE_NAME = 0x0101
    TAG_AC_NAME = 0x0102
    TAG_HOST_UNIQ = 0x0103
    TAG_AC_COOKIE = 0x0104
    TAG_RELAY_SESSION_ID = 0x0110
    TAG_MAX_PAYLOAD = 0x0120
    COOKIE = 9                # octets: a step, and the hash
    STEP_TICKS = 300          # of 100 ms
    PPPOE_MRU = 1492

cdef struct Octets:
    const uint8_t* at         # NULL: the tag is not there
    uint16_t length

cdef struct Tags:
    Octets service_name
    Octets host_uniq
    Octets cookie
    Octets relay
    uint16_t max_payload      # 0: not said


cdef inline bint read_tags(const uint8_t* p, size_t n, Tags* t) noexcept nogil:
    """The first of each kind; False when one runs past the end. Budget: 20 ns."""
    cdef size_t at = 0
    cdef uint16_t kind, length
    cdef Octets* into
    t.service_name.at = t.host_uniq.at = t.cookie.at = t.relay.at = NULL
    t.service_name.length = t.host_uniq.length = t.cookie.length = t.relay.length = t.max_payload = 0
    while at < n:
        if at + 4 > n:
            return False
        kind = load16(p + at)
        if kind == TAG_END:
            return True
        length = load16(p + at + 2)
        at += 4
        if at + length > n:
            return False
        into = NULL
        if kind == TAG_SERVICE_NAME:
            into = &t.service_name
        elif kind == TAG_HOST_UNIQ:
            into = &t.host_uniq
        elif kind == TAG_AC_COOKIE:
            into = &t.cookie
        elif kind == TAG_RELAY_SESSION_ID:
            into = &t.relay
        elif kind == TAG_MAX_PAYLOAD and length == 2 and t.max_payload == 0:
            t.max_payload = load16(p + at)
        if into != NULL and into.at == NULL:
            into.at = p + at
            into.length = length
        at += length
    return True


cdef inline bint offered(const Services* offer, uint32_t index, uint8_t port, const uint8_t* station, const Tags* t) noexcept nogil:
    """Whether a service is for that interface, network, name and MAC."""
    cdef const Service* s = &offer.service[index]
    cdef int i
    cdef uint16_t outer = load16(station + 4), inner = load16(station + 8)
    cdef const VlanRange* r
    if s.port != port:
        return False
    for i in range(s.ranges_used):
        r = &s.ranges[i]
        if r.outer[0] <= outer <= r.outer[1] and r.inner[0] <= inner <= r.inner[1]:
            break
    else:
        if s.ranges_used or outer:
            return False
    if t.service_name.length == 0:
        if s.flags & SERVICE_EXACT and s.name_length:
            return False
    elif not s.flags & SERVICE_ANY and (
            s.name_length != t.service_name.length or memcmp(s.name, t.service_name.at, s.name_length)):
        return False
    if s.flags & SERVICE_LISTED:
        return is_listed(offer, index, station + NETWORK)
    return not s.flags & SERVICE_UNLISTED or not is_listed(offer, index, station + NETWORK)


cdef inline void hash_octets(Siphash* s, const Octets* o) noexcept nogil:
    """With its length, so that no two sets of tags are the same octets."""
    cdef uint8_t length[2]
    store16(length, o.length)
    siphash_add(s, length, 2)
    if o.length:
        siphash_add(s, o.at, o.length)


cdef inline void make_cookie(uint8_t* out, const uint8_t* key, uint8_t step, uint8_t port, const uint8_t* station,
                             const Tags* t) noexcept nogil:
    cdef Siphash s
    cdef uint64_t h
    siphash_begin(&s, key)
    siphash_add(&s, &step, 1)
    siphash_add(&s, &port, 1)
    siphash_add(&s, station, STATION)
    hash_octets(&s, &t.host_uniq)
    hash_octets(&s, &t.relay)
    h = siphash_end(&s)
    out[0] = step
    memcpy(out + 1, &h, 8)


cdef inline bint right_cookie(const uint8_t* key, uint32_t tick, uint8_t port, const uint8_t* station, const Tags* t) noexcept nogil:
    """Whether a PADR brings a cookie that we gave to this station for these tags, not long ago. Budget: 60 ns."""
    cdef uint8_t wanted[COOKIE]
    cdef uint8_t step = <uint8_t>(tick // STEP_TICKS), differs = 0
    cdef int i
    if t.cookie.length != COOKIE or <uint8_t>(step - t.cookie.at[0]) > 1:
        return False
    make_cookie(wanted, key, t.cookie.at[0], port, station, t)
    for i in range(COOKIE):                 # as long whatever is wrong
        differs |= wanted[i] ^ t.cookie.at[i]
    return differs == 0


cdef inline size_t push_tag(uint8_t* p, size_t at, uint16_t kind, const uint8_t* value, uint16_t length) noexcept nogil:
    store16(p + at, kind)
    store16(p + at + 2, length)
    if length:
        memcpy(p + at + 4, value, length)
    return at + 4 + length


cdef inline size_t push_pado(uint8_t* p, size_t room, const Services* offer, const Service* chosen, uint32_t tick,
                             const uint8_t* station, const Tags* t) noexcept nogil:
    """Write the PADO for a PADI, behind the Ethernet header; its octets, or 0 when there is no room for what has to be echoed. It
    names what was asked for first, then the others that the station may have (section 5.2). Budget: 200 ns."""
    cdef size_t at = PPPOE
    cdef uint32_t i
    cdef const Service* s
    cdef uint8_t cookie[COOKIE]
    cdef uint8_t payload[2]
    cdef Tags blank = t[0]
    if <size_t>t.service_name.length + t.host_uniq.length + t.relay.length + chosen.ac_name_length + COOKIE + PPPOE + 6 * 4 + 2 > room:
        return 0
    at = push_tag(p, at, TAG_SERVICE_NAME, t.service_name.at, t.service_name.length)
    at = push_tag(p, at, TAG_AC_NAME, chosen.ac_name, chosen.ac_name_length)
    make_cookie(cookie, offer.key, <uint8_t>(tick // STEP_TICKS), chosen.port, station, t)
    at = push_tag(p, at, TAG_AC_COOKIE, cookie, COOKIE)
    if t.host_uniq.at != NULL:
        at = push_tag(p, at, TAG_HOST_UNIQ, t.host_uniq.at, t.host_uniq.length)
    if t.relay.at != NULL:
        at = push_tag(p, at, TAG_RELAY_SESSION_ID, t.relay.at, t.relay.length)
    if t.max_payload > PPPOE_MRU and chosen.max_payload > PPPOE_MRU:
        store16(payload, t.max_payload)
        at = push_tag(p, at, TAG_MAX_PAYLOAD, payload, 2)
    blank.service_name.length = 0
    for i in range(offer.count):
        s = &offer.service[i]
        if s.name_length and at + 4 + s.name_length <= room and offered(offer, i, chosen.port, station, &blank) \
                and not (s.name_length == t.service_name.length and memcmp(s.name, t.service_name.at, s.name_length) == 0):
            at = push_tag(p, at, TAG_SERVICE_NAME, s.name, s.name_length)
    push_pppoe(p, PADO, 0, <uint16_t>(at - PPPOE))
    return at
