"""headrace as a subject: `headrace serve` in the lab's host, one worker on the forwarder's core, all else on the other."""
from __future__ import annotations

from typing import Any

from .concentrator import Concentrator
from .lab import FORWARDER, OTHERS, Lab
from .lns import Lns
from .subject import MTU, Packets


class Headrace(Lns):
    """One concentrator; `offload` is its setting."""
    interface, offload = "hr0", "auto"

    def __init__(self, lab: Lab, workers: int = 1) -> None:
        super().__init__(lab, workers)
        self.concentrator: Concentrator | None = None

    def settings(self) -> dict[str, Any]:
        """What is not as concentrator.py has it, by what it is of."""
        # Nobody answers echoes while the sink has the far end's socket, hence the long keepalive.
        return {"concentrator": {"offload": self.offload, "spin": "0s", "log": "warning", "workers": self.workers},
                "server": {"max-mtu": MTU, "max-mru": MTU, "keepalive-timeout": "1h"}}

    def start(self) -> None:
        self.concentrator = Concentrator(
            self.lab.host, cpu=OTHERS, **self.settings(),
            environment={"HEADRACE_FORWARDER_CPUS": ",".join(map(str, (FORWARDER, OTHERS)[:self.workers])),
                         "HEADRACE_CONTROL_CPUS": str(OTHERS)})
        self._pids = self.concentrator.pids()

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
