from enum import IntEnum
from typing import Any, TypeVar

from .table import Path

LONGEST: int

class PuntKind(IntEnum):
    PUNT_L2TP = 1
    PUNT_PPP = 2
    PUNT_DEAD = 3
    PUNT_ARM = 4
    PUNT_REKEY = 5
    PUNT_UNREADABLE = 6
    PUNT_PPPOE = 7

Frame = TypeVar("Frame", bound=tuple[int, int, int, int, tuple[Any, ...] | None, bytes])

class Channel:
    def __init__(self, fd: int) -> None: ...
    def receive(self) -> list[tuple[int, int, int, int, int, Path | None, bytes]]: ...
    def send(self, frames: list[Frame]) -> int: ...
