"""A PPPoE service as the tables have it: what it is called, and on which interface and VLANs who may have it."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SERVICE_NAME = 64         # octets of a name, at most
    RANGES = 8                # of VLANs
    COOKIE_KEY = 16
    REFUSE = 0xFFFF
    SERVICES = 63
    PORTS = 16                # interfaces
    LISTED = 2048             # MACs of all lists together

cpdef enum ServiceFlag:
    SERVICE_ANY = 1           # whatever name is asked for
    SERVICE_EXACT = 2         # only who asks for its name, not who asks for any
    SERVICE_LISTED = 4        # only whose MAC is on its list
    SERVICE_UNLISTED = 8      # only whose MAC is not

# From which VLAN to which; 0 to 0 is no tag.
cdef struct VlanRange:
    uint16_t outer[2]
    uint16_t inner[2]

# A service of one interface: written by control before its copy is in force, then only `delay` changes.
cdef struct Service:          # 256 octets
    uint8_t name[SERVICE_NAME]
    uint8_t ac_name[SERVICE_NAME]
    VlanRange ranges[RANGES]
    uint8_t ranges_used       # 0: untagged only
    uint8_t name_length
    uint8_t ac_name_length
    uint8_t flags             # ServiceFlag
    uint8_t port              # index of its interface among the listeners
    uint8_t pad0
    uint16_t max_payload      # the largest PPP packet that the interface carries (RFC 4638)
    uint16_t delay            # ms before a PADO leaves; REFUSE: none does
    uint8_t pad[54]

# One of the two copies of what is offered; control fills the idle one.
cdef struct Services:         # 32 KiB
    uint8_t key[COOKIE_KEY]   # of the cookies
    uint32_t count
    uint32_t listed           # how many of `macs` there are
    uint32_t padi_all         # PADIs that are answered a second at most: of all interfaces,
    uint32_t padi_port[PORTS] # of one,
    uint16_t padi_station[PORTS]    # and of one station there
    uint8_t mac[PORTS][6]     # our own on each interface
    uint8_t pad[36]
    Service service[SERVICES]
    uint64_t macs[LISTED]     # index of a service << 48 | MAC, in ascending order


cdef inline bint is_listed(const Services* offer, uint32_t index, const uint8_t* mac) noexcept nogil:
    """Whether a service's list has that MAC. Budget: 30 ns."""
    cdef uint64_t wanted = index
    cdef uint32_t low = 0, high = offer.listed, middle
    cdef int i
    for i in range(6):
        wanted = wanted << 8 | mac[i]
    while low < high:
        middle = (low + high) // 2
        if offer.macs[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < offer.listed and offer.macs[low] == wanted
