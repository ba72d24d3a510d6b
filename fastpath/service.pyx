"""Control's door to what PPPoE offers; service.pxd has what that is.

Two copies, as of a Config: the idle one is filled, then put in force.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .sys cimport store_release8
from .table cimport Tables

assert sizeof(Service) == 256 and sizeof(Services) == 32768


def offer(Tables tables, list services, dict ports={}, uint32_t padi_all=20000):
    """Put services in force, the first one that a host may have being its answer: dicts with `name` and `ac_name` (octets, at most
    SERVICE_NAME), `port`, and as they need `flags` (ServiceFlag), `ranges` of VLANs (((first, last) of the outer, of the inner), ...),
    `max_payload`, `delay` in ms, `macs` on its list. `ports` has (our MAC, PADIs a second, those of one station) of an interface;
    `padi_all` are those of all. ValueError: no room. BlockingIOError: the offer before the last is still in a worker's hands."""
    cdef int idle = (tables.table.header.offered & 1) ^ 1
    cdef Services* to = &tables.table.services[idle]
    cdef Service* s
    cdef bytes name, ac_name, mac
    listed = sorted(i << 48 | int.from_bytes(mac) for i, row in enumerate(services) for mac in row.get("macs", ()))
    if len(services) > SERVICES or len(listed) > LISTED:
        raise ValueError(f"{len(services)} services, at most {SERVICES}, with {len(listed)} MACs, at most {LISTED}")
    if tables.offers is not None:
        tables._wait(tables.offers, "what PPPoE offers")
    to.count = 0
    for i, row in enumerate(services):
        s = &to.service[i]
        memset(s, 0, sizeof(Service))
        name, ac_name, ranges = row["name"], row["ac_name"], row.get("ranges", ())
        if len(name) > SERVICE_NAME or len(ac_name) > SERVICE_NAME or len(ranges) > RANGES:
            raise ValueError(f"service {name}: names have at most {SERVICE_NAME} octets, and there are at most {RANGES} ranges")
        memcpy(s.name, <const char*>name, len(name))
        memcpy(s.ac_name, <const char*>ac_name, len(ac_name))
        s.name_length, s.ac_name_length, s.ranges_used = <uint8_t>len(name), <uint8_t>len(ac_name), <uint8_t>len(ranges)
        for k, (outer, inner) in enumerate(ranges):
            s.ranges[k].outer[0], s.ranges[k].outer[1] = outer
            s.ranges[k].inner[0], s.ranges[k].inner[1] = inner
        s.port, s.flags, s.max_payload, s.delay = row["port"], row.get("flags", 0), row.get("max_payload", 1492), row.get("delay", 0)
    for i in range(PORTS):
        mac, to.padi_port[i], to.padi_station[i] = ports.get(i, (bytes(6), 10000, 2))
        memcpy(to.mac[i], <const char*>mac, 6)
    for i, entry in enumerate(listed):
        to.macs[i] = entry
    to.count, to.listed, to.padi_all = <uint32_t>len(services), <uint32_t>len(listed), padi_all
    store_release8(&tables.table.header.offered, <uint8_t>(tables.table.header.offered + 1))
    tables.offers = tables.epochs()


def set_delay(Tables tables, int index, uint16_t delay):
    """How many ms the PADOs of a service wait; 65535: none leaves."""
    cdef Services* now = &tables.table.services[tables.table.header.offered & 1]
    if not 0 <= index < <int>now.count:
        raise IndexError(index)
    now.service[index].delay = delay
