"""Control's doors to bundles: opened once, then links come and go.

    publish(KIND_BUNDLE, ...)   a slot among the others of its bank; its Config as any session's, with CONFIG_BUNDLE
    open_bundle                 MRRU and the sequence numbers' form, before set_state(OPEN)
    join_link, leave_link       at any time; BlockingIOError, as `configure`: the members before the last are still in a worker's hands
    retire                      the last of all, after its links have left

A link's Config has neither CONFIG_IP nor the other families and ciphers, which are the bundle's, but its template; its state is OPEN.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from .sys cimport store_release8, store_release32
from .table cimport FREE, RETIRED, TEMPLATE, Session, Tables

assert sizeof(Member) == 20 and sizeof(Members) == 192 and sizeof(Heard) == 16 and sizeof(Bundle) == 1280


def open_bundle(Tables tables, uint32_t slot, *, uint16_t mrru, uint16_t flags=0):
    """Make a session that is not OPEN a bundle without links. `mrru` is what we take, `flags` are BundleFlags."""
    cdef Session* s = tables._session(slot)
    cdef Bundle* b = &tables.table.bundles[slot]
    memset(b, 0, sizeof(Bundle))
    b.members[0].mrru, b.members[0].flags = mrru, flags
    s.place = LINKS                       # nobody's: what it receives itself is not a link's
    store_release32(&s.bundle, slot)


def join_link(Tables tables, uint32_t slot, uint32_t link, *, uint32_t rate=0, uint16_t room, bint hold=False):
    """Let a link be of the bundle in `slot`: its share of what is sent is as its rate (bits a second, 0: not known, and then all links'
    are equal), its peer takes frames of `room` octets (its MRU). With `hold` nothing is sent by it before its peer was heard on it
    again, while there are others. Return its place. ValueError: there is none, or it cannot be a link."""
    cdef Session* s = tables._session(link)
    cdef Bundle* b = _bundle(tables, slot)
    cdef Members* now = &b.members[b.active & 1]
    cdef Members* to
    cdef int place = 0
    if any([now.member[i].slot == link for i in range(LINKS)]):
        raise ValueError(f"the session in slot {link} is a link already")
    if s.state in (FREE, RETIRED) or s.bundle not in (0, link) or s.config[s.active & 1].ppp_at > TEMPLATE - 16:
        raise ValueError(f"the session in slot {link} cannot be a link of the bundle in slot {slot}")
    if room < LEAST_ROOM:
        raise ValueError(f"a link for frames of {room} octets")
    while place < LINKS and now.member[place].slot:
        place += 1
    if place == LINKS:
        raise ValueError(f"a bundle has at most {LINKS} links")
    to = _idle(tables, slot, b)
    to.member[place].slot, to.member[place].generation = link, s.generation
    to.member[place].rate, to.member[place].room = rate, room
    s.attached = not hold
    _switch(tables, slot, b)
    s.place = place
    store_release32(&s.bundle, slot)
    return place


def leave_link(Tables tables, uint32_t slot, uint32_t link):
    """Take a link out of its bundle; say whether it was in it."""
    cdef Session* s = tables._session(link)
    cdef Bundle* b = _bundle(tables, slot)
    cdef Members* to
    for place in range(LINKS):
        if b.members[b.active & 1].member[place].slot == link:
            to = _idle(tables, slot, b)
            memset(&to.member[place], 0, sizeof(Member))
            if link != slot and s.bundle == slot:
                store_release32(&s.bundle, 0)
            _switch(tables, slot, b)
            return True
    return False


def links(Tables tables, uint32_t slot):
    """(slot, rate, room) of a bundle's links, by their places."""
    cdef Bundle* b = _bundle(tables, slot)
    cdef Members* m = &b.members[b.active & 1]
    return [(m.member[i].slot, m.member[i].rate, m.member[i].room) for i in range(LINKS) if m.member[i].slot]


def counters(Tables tables, uint32_t slot):
    """(number of the fragment expected next, how many wait, number of the one sent next)."""
    cdef Bundle* b = _bundle(tables, slot)
    return b.next, b.waits, b.tx_next


cdef Bundle* _bundle(Tables tables, uint32_t slot) except NULL:
    if tables._session(slot).bundle != slot:
        raise ValueError(f"the session in slot {slot} is no bundle")
    return &tables.table.bundles[slot]


cdef Members* _idle(Tables tables, uint32_t slot, Bundle* b) except NULL:
    """The copy that is not in force, as the other one is."""
    cdef int idle = (b.active & 1) ^ 1
    mark = tables.flips.get(-1 - <long>slot)
    if mark is not None:
        tables._wait(mark, f"bundle in slot {slot}")
    b.members[idle] = b.members[idle ^ 1]
    return &b.members[idle]


cdef _switch(Tables tables, uint32_t slot, Bundle* b):
    """Sum up the members of the idle copy, and put it in force."""
    cdef int idle = (b.active & 1) ^ 1
    cdef Members* m = &b.members[idle]
    cdef uint32_t least = 0xFFFFFFFF, most = 0
    cdef int i
    m.links = m.places = 0
    m.room = 65535
    m.version += 1
    for i in range(LINKS):
        if m.member[i].slot:
            m.links += 1
            m.places = <uint8_t>(i + 1)
            m.room = min(m.room, m.member[i].room)
            least, most = min(least, m.member[i].rate), max(most, m.member[i].rate)
    for i in range(m.places):
        if least == 0 or most // least >= UNLIKELY:
            m.member[i].cost = EVEN
        elif m.member[i].slot:
            m.member[i].cost = <uint32_t>(<uint64_t>most * EVEN // m.member[i].rate)
    store_release8(&b.active, <uint8_t>idle)
    tables.flips.pop(-1 - <long>slot, None)
    tables.flips[-1 - <long>slot] = tables.epochs()
