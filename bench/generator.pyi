from collections.abc import Sequence

from .ends import Ends
from .sink import Sink

class Generator:
    sent: int
    refused: int
    def __init__(self, fd: int, framing: str, sessions: Sequence[tuple[int, int, str]], other: str, *,
                 peer: tuple[str, int] | bytes | None = None, flows: int = 1, size: int | Sequence[int] = 64, coalescible: bool = True,
                 burst: int = 64, rate: float = 0, length: bool = False, port: int = 9,
                 link: bytes = b"", ends: Ends | None = None, sink: Sink | None = None) -> None: ...
    def aim(self, peer: tuple[str, int] | bytes) -> None: ...
    def run(self, seconds: float = 0, packets: int = 0) -> int: ...
    def stop(self) -> None: ...
