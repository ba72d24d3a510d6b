from enum import IntEnum

class Kind(IntEnum):
    KIND_NONE = 0
    KIND_L2TP = 1
    KIND_PPTP = 2
    KIND_PPPOE = 3
    KIND_BUNDLE = 4

class Verdict(IntEnum):
    PASS = 0
    UP = 1
    DOWN = 2
    PUNT = 3
    ECHO = 4
    HELLO = 5
    ACK = 6
    OFFERED = 7
    HANDED = 8
    FRAGMENTED = 9
    TOO_BIG = 10
    DROP_SHORT = 11
    DROP_VERSION = 12
    DROP_LENGTH = 13
    DROP_OFFSET = 14
    DROP_NO_SESSION = 15
    DROP_PEER = 16
    DROP_NOT_OPEN = 17
    DROP_SEQUENCE = 18
    DROP_CLEAR = 19
    DROP_CIPHER = 20
    DROP_COHERENCY = 21
    DROP_STALE = 22
    DROP_AHEAD = 23
    DROP_IP = 24
    DROP_SPOOF = 25
    DROP_SCOPE = 26
    DROP_SOLICIT = 27
    DROP_ECN = 28
    DROP_NO_ROUTE = 29
    DROP_TOO_BIG = 30
    DROP_SEGMENT = 31
    DROP_RING = 32
    DROP_DISCOVERY = 33
    DROP_SERVICE = 34
    DROP_PADI = 35
    DROP_COOKIE = 36
    DROP_NO_TUNNEL = 37
    DROP_RATE = 38
    DROP_PUNT = 39
    DROP_INNER = 40
    DROP_WIRE = 41
    VERDICTS = 42

class Flag(IntEnum):
    FLAG_CSUM = 1
    FLAG_DF = 2
    FLAG_V6 = 4
    FLAG_FRAGMENT = 8
    FLAG_VERIFIED = 16
