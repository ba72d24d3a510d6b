"""A PPPoE service as the tables have it: what it is called, and on which interface and VLANs who may have it."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    SERVICE_NAME = 64         # octets of a name, at most
    RANGES = 8                # of VLANs
    COOKIE_KEY = 16
    REFUSE = 0xFFFF
    SERVICES = 63

cpdef enum ServiceFlag:
    SERVICE_ANY = 1           # whatever name is asked for
    SERVICE_EXACT = 2         # only who asks for its name, not who asks for any

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
cdef struct Services:         # 16 KiB
    uint8_t key[COOKIE_KEY]   # of the cookies
    uint32_t count
    uint8_t pad[236]
    Service service[SERVICES]
