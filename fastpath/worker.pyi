from enum import IntEnum
from typing import Any

from .table import Tables

class PortKind(IntEnum):
    PORT_UDP = 0
    PORT_GRE = 1
    PORT_ETHERNET = 2

class Forwarder:
    def __init__(self, tables: Tables, workers: list[dict[str, Any]], *, spin_ns: int = 50000, gso: bool = True,
                 merge: int = 2, window: int = 32, window_ns: int = 20000000) -> None: ...
    @property
    def count(self) -> int: ...
    def run(self, index: int) -> None: ...
    def lost_inner_port(self) -> bool: ...
    def stop(self) -> None: ...
