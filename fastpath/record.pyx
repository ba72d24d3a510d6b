"""See record.pxd."""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from .table cimport TEMPLATE


cdef fill_path(Path* p, path):
    port, local, local_port, peer, peer_port = path[:5]
    local, peer = sixteen(local), sixteen(peer)
    p.port, p.local_port, p.peer_port = port, local_port, peer_port
    memcpy(p.local, <const char*>local, 16)
    memcpy(p.peer, <const char*>peer, 16)


cdef fill_config(Config* c, dict config):
    """Set the named fields; what is not named keeps its value."""
    cdef bytes b
    for name, value in config.items():
        if name == "template":
            b = value
            if len(b) > TEMPLATE:
                raise ValueError(f"a template of {len(b)} octets")
            memcpy(c.template, <const char*>b, len(b))
            c.template_length = <uint8_t>len(b)
        elif name == "address":
            b = sixteen(value)
            memcpy(&c.address, <const char*>b + 8, 8)
        elif name == "prefix":
            b = sixteen(value)
            memcpy(&c.prefix, <const char*>b, 8)
        elif name == "gateway":
            b = sixteen(value)
            memcpy(c.gateway, <const char*>b + 12, 4)
        elif name == "gateway6":
            b = sixteen(value)
            memcpy(c.gateway6, <const char*>b, 16)
        elif name == "flags":
            c.flags = value
        elif name == "ppp_at":
            c.ppp_at = value
        elif name == "ns_at":
            c.ns_at = value
        elif name == "length_at":
            c.length_at = value
        elif name == "mtu":
            c.mtu = value
        elif name == "mss":
            c.mss = value
        elif name == "keepalive":
            c.keepalive = value
        elif name == "bridge":
            c.bridge = value
        elif name == "tap":
            c.tap = value
        elif name == "tos":
            c.tos = value
        elif name == "our_magic":
            c.our_magic = value
        elif name == "peer_magic":
            c.peer_magic = value
        else:
            raise TypeError(f"no field {name}")


cdef sixteen(address):
    if len(address) != 16:
        raise ValueError("an address has 16 octets here")
    return address
