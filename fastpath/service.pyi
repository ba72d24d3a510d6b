from enum import IntEnum
from typing import Any

from .table import Tables

class ServiceFlag(IntEnum):
    SERVICE_ANY = 1
    SERVICE_EXACT = 2
    SERVICE_LISTED = 4
    SERVICE_UNLISTED = 8

def offer(tables: Tables, services: list[dict[str, Any]], ports: dict[int, tuple[bytes, int, int]] = {}, padi_all: int = 20000) -> None: ...
def set_delay(tables: Tables, index: int, delay: int) -> None: ...
