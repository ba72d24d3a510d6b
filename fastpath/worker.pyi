from enum import IntEnum

class PortKind(IntEnum):
    PORT_UDP = 0
    PORT_GRE = 1
    PORT_ETHERNET = 2
