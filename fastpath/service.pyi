from enum import IntEnum

class ServiceFlag(IntEnum):
    SERVICE_ANY = 1
    SERVICE_EXACT = 2
    SERVICE_LISTED = 4
    SERVICE_UNLISTED = 8
