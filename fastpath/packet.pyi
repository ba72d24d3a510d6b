from enum import IntEnum

class Kind(IntEnum):
    KIND_NONE = 0
    KIND_L2TP = 1
    KIND_PPTP = 2

class Verdict(IntEnum):
    PASS = 0
    UP = 1
    DOWN = 2
    PUNT = 3
    ECHO = 4
    HELLO = 5
    ACK = 6
    HANDED = 7
    FRAGMENTED = 8
    TOO_BIG = 9
    DROP_SHORT = 10
    DROP_VERSION = 11
    DROP_LENGTH = 12
    DROP_OFFSET = 13
    DROP_NO_SESSION = 14
    DROP_PEER = 15
    DROP_NOT_OPEN = 16
    DROP_SEQUENCE = 17
    DROP_CLEAR = 18
    DROP_CIPHER = 19
    DROP_COHERENCY = 20
    DROP_STALE = 21
    DROP_AHEAD = 22
    DROP_IP = 23
    DROP_SPOOF = 24
    DROP_SCOPE = 25
    DROP_SOLICIT = 26
    DROP_ECN = 27
    DROP_NO_ROUTE = 28
    DROP_TOO_BIG = 29
    DROP_SEGMENT = 30
    DROP_RING = 31
    DROP_NO_TUNNEL = 32
    DROP_RATE = 33
    DROP_PUNT = 34
    DROP_INNER = 35
    DROP_WIRE = 36
    VERDICTS = 37

class Flag(IntEnum):
    FLAG_CSUM = 1
    FLAG_DF = 2
    FLAG_V6 = 4
    FLAG_FRAGMENT = 8
    FLAG_VERIFIED = 16
