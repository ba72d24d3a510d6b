from enum import IntEnum

PORTS: int

class BridgeFlag(IntEnum):
    BRIDGE_OPEN = 1
    BRIDGE_TAGGED = 2
    BRIDGE_STP = 4
