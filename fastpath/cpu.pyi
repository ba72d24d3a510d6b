from enum import IntEnum

NAMES: tuple[str, ...]

class Level(IntEnum):
    LEVEL_PORTABLE = 0
    LEVEL_SSE41 = 1
    LEVEL_SHANI = 2

def name() -> str: ...
def available() -> tuple[str, ...]: ...
def use(name: str) -> None: ...
