"""headrace as a subject: `headrace serve` in the lab's host, one worker on the forwarder's core, all else on the other."""
from __future__ import annotations

from typing import Any

from ..control.mppe import Policy
from ..control.network import MPPE_HEADER
from .concentrator import Concentrator
from .lab import FORWARDER, OTHERS, Lab
from .lns import Lns
from .stages import Looker, open_tables
from .subject import Packets


class Headrace(Lns):
    """One concentrator; `offload` is its setting."""
    interface, offload = "hr0", "auto"

    def __init__(self, lab: Lab, workers: int = 1, mppe: int = 0) -> None:
        """`mppe`: 40, 56 or 128 bits, stateless, of all sessions; 0: in clear."""
        super().__init__(lab, workers)
        if mppe:
            self.encryption, self.header = Policy("require", (mppe,)), MPPE_HEADER
        self.concentrator: Concentrator | None = None

    def settings(self) -> dict[str, Any]:
        """What is not as concentrator.py has it, by what it is of."""
        longest = self.mtu + self.header
        # Nobody answers echoes while the sink has the far end's socket, hence the long keepalive.
        found: dict[str, Any] = {"concentrator": {"offload": self.offload, "spin": "0s", "log": "warning", "workers": self.workers},
                                 "server": {"max-mtu": longest, "max-mru": longest, "keepalive-timeout": "1h"}}
        if self.encryption.required:
            found["server"]["authentication"] = [self.authentication]
            found["profile"] = {"use-encryption": "require", "mppe-strength": list(self.encryption.strengths)}
        return found

    def start(self) -> None:
        self.concentrator = Concentrator(
            self.lab.host, cpu=OTHERS, **self.settings(),
            environment={"HEADRACE_FORWARDER_CPUS": ",".join(map(str, (FORWARDER, OTHERS)[:self.workers])),
                         "HEADRACE_CONTROL_CPUS": str(OTHERS)})
        self._pids = self.concentrator.pids()

    def looker(self) -> Looker:
        """Who looks at its stages; to be closed."""
        assert self.concentrator
        return Looker(open_tables(self.concentrator.run_dir / "tables"), self._pids["forwarder"])

    def roles(self) -> dict[str, list[int]]:
        return {"forwarder": [self._pids["forwarder"]], "control": [self._pids["supervisor"], self._pids["control"]]}

    def packets(self) -> Packets:
        assert self.concentrator
        verdicts = self.concentrator.get("stats")["verdicts"]
        return Packets(verdicts["up"], verdicts["down"])

    def stop(self) -> None:
        super().stop()
        if self.concentrator:
            self.concentrator.stop()


class Plain(Headrace):
    """The same forwarder without offloads: a system call still carries many packets, but each is a packet of its own."""
    offload, whole = "none", False
