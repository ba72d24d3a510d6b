from enum import IntEnum

class Kind(IntEnum):
    KIND_NONE = 0
    KIND_L2TP = 1

class Verdict(IntEnum):
    PASS = 0
    UP = 1
    DOWN = 2
    PUNT = 3
    ECHO = 4
    HELLO = 5
    HANDED = 6
    FRAGMENTED = 7
    TOO_BIG = 8
    DROP_SHORT = 9
    DROP_VERSION = 10
    DROP_LENGTH = 11
    DROP_OFFSET = 12
    DROP_NO_SESSION = 13
    DROP_PEER = 14
    DROP_NOT_OPEN = 15
    DROP_SEQUENCE = 16
    DROP_IP = 17
    DROP_SPOOF = 18
    DROP_SCOPE = 19
    DROP_SOLICIT = 20
    DROP_ECN = 21
    DROP_NO_ROUTE = 22
    DROP_TOO_BIG = 23
    DROP_SEGMENT = 24
    DROP_RING = 25
    DROP_NO_TUNNEL = 26
    DROP_RATE = 27
    DROP_PUNT = 28
    DROP_INNER = 29
    DROP_WIRE = 30
    VERDICTS = 31

class Flag(IntEnum):
    FLAG_CSUM = 1
    FLAG_DF = 2
    FLAG_V6 = 4
    FLAG_FRAGMENT = 8
    FLAG_VERIFIED = 16
