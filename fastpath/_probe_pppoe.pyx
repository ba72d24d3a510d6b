"""Doors for tests to PPPoE's inline code: frames, discovery, SipHash. Inputs are copied into memory of their exact size, and what is
written goes into room of the exact size, so that a sanitizer sees an access that is one octet off."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from .offer cimport Octets, Tags, offered, push_pado, read_tags, right_cookie
from .packet import Verdict
from .pppoe cimport PPPOE, STATION, Pppoe, push_ethernet, push_pppoe
from .pppoe cimport pull_pppoe as pull_pppoe_header
from .service cimport LISTED, SERVICE_NAME, SERVICES, Service, Services
from .siphash cimport SIPHASH_KEY, Siphash, siphash_add, siphash_begin, siphash_end


cdef class Exact:
    """Octets in memory of their own, up to its end."""
    cdef uint8_t* memory
    cdef uint8_t* at
    cdef size_t n

    def __cinit__(self, const uint8_t[::1] octets):
        self.n = octets.shape[0]
        self.memory = <uint8_t*>malloc(self.n or 1)
        self.at = self.memory + (0 if self.n else 1)
        if self.n:
            memcpy(self.at, &octets[0], self.n)

    def __dealloc__(self):
        free(self.memory)


def pull_pppoe(octets, uint16_t tpid=0, uint16_t tci=0):
    """(octets in front of the payload, the header's fields), None for what is not PPPoE's, or the Verdict that it gets."""
    cdef Pppoe h
    cdef Exact p = Exact(octets)
    cdef int at = pull_pppoe_header(p.at, p.n, tpid, tci, &h)
    if at <= 0:
        return Verdict(-at) if at else None
    return at, {"ethertype": h.ethertype, "code": h.code, "session": h.session, "length": h.length, "station": h.station[:STATION]}


def push_frame(const uint8_t[::1] to, const uint8_t[::1] station, uint16_t ethertype, uint8_t code, uint16_t session, uint16_t length):
    """The headers of a PPPoE frame from one station to another."""
    cdef uint8_t head[22 + PPPOE]
    if to.shape[0] != STATION or station.shape[0] != STATION:
        raise ValueError("stations have 16 octets")
    cdef size_t at = push_ethernet(head, &to[0], &station[0], ethertype)
    push_pppoe(head + at, code, session, length)
    return head[:at + PPPOE]


def siphash(const uint8_t[::1] key, pieces):
    """The hash of pieces that are added one after the other."""
    cdef Siphash s
    cdef Exact p
    if key.shape[0] != SIPHASH_KEY:
        raise ValueError("a key has 16 octets")
    siphash_begin(&s, &key[0])
    for piece in pieces:
        p = Exact(piece)
        siphash_add(&s, p.at, p.n)
    return siphash_end(&s)


cdef octets(const Octets* o):
    return None if o.at == NULL else o.at[:o.length]


def tags_of(payload):
    """The tags that a worker looks at, or None when one runs past the end."""
    cdef Tags t
    cdef Exact p = Exact(payload)
    if not read_tags(p.at, p.n, &t):
        return None
    return {"service_name": octets(&t.service_name), "host_uniq": octets(&t.host_uniq), "ac_cookie": octets(&t.cookie),
            "relay_session_id": octets(&t.relay), "max_payload": t.max_payload or None}


cdef Service service(dict row) except *:
    cdef Service s
    cdef bytes name = row["name"], ac_name = row.get("ac_name", b"ac")
    memset(&s, 0, sizeof(s))
    if len(name) > SERVICE_NAME or len(ac_name) > SERVICE_NAME:
        raise ValueError("a name has at most 64 octets")
    memcpy(s.name, <const char*>name, len(name))
    memcpy(s.ac_name, <const char*>ac_name, len(ac_name))
    s.name_length, s.ac_name_length = <uint8_t>len(name), <uint8_t>len(ac_name)
    s.flags, s.port, s.max_payload = row.get("flags", 0), row.get("port", 0), row.get("max_payload", 1492)
    for i, (outer, inner) in enumerate(row.get("ranges", ())):
        s.ranges[i].outer[0], s.ranges[i].outer[1] = outer
        s.ranges[i].inner[0], s.ranges[i].inner[1] = inner
        s.ranges_used += 1
    return s


def answer(payload, list rows, *, const uint8_t[::1] key, uint32_t tick, const uint8_t[::1] station, uint8_t port=0, size_t room=1494):
    """The PADO for a PADI's tags from the first service that is for it, or None."""
    cdef Tags t
    cdef Exact p = Exact(payload)
    cdef Services* offer = <Services*>calloc(1, sizeof(Services))
    cdef uint8_t* out = <uint8_t*>malloc(room)
    cdef uint32_t i
    try:
        listed = sorted(i << 48 | int.from_bytes(mac) for i, row in enumerate(rows) for mac in row.get("macs", ()))
        if len(rows) > SERVICES or len(listed) > LISTED:
            raise ValueError("no room")
        for i, row in enumerate(rows):
            offer.service[i] = service(row)
        for i, entry in enumerate(listed):
            offer.macs[i] = entry
        offer.count, offer.listed = <uint32_t>len(rows), <uint32_t>len(listed)
        memcpy(offer.key, &key[0], 16)
        if not read_tags(p.at, p.n, &t) or t.service_name.at == NULL:
            return None
        for i in range(offer.count):
            if offered(offer, i, port, &station[0], &t):
                n = push_pado(out, room, offer, &offer.service[i], tick, &station[0], &t)
                return out[:n] if n else None
        return None
    finally:
        free(offer)
        free(out)


def accepts(payload, *, const uint8_t[::1] key, uint32_t tick, const uint8_t[::1] station, uint8_t port=0):
    """Whether a PADR's tags bring a cookie of ours."""
    cdef Tags t
    cdef Exact p = Exact(payload)
    return read_tags(p.at, p.n, &t) and right_cookie(&key[0], tick, port, &station[0], &t)
