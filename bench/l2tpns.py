"""l2tpns, an LNS in C, as a subject: Debian's package, with a configuration of ours and our RADIUS server (radius.py).

It looks for its files in /etc/l2tpns and nowhere else: in a mount namespace of its own it finds a folder of ours there. The
package starts a service where it is installed, so `make packages` only unpacks it below build/. l2tpns does input and output
by single packets, and authenticates by PAP or CHAP.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .concentrator import cpu_time, scratch
from .lab import FORWARDER, HOST, OTHERS, LabError, Namespace, carried
from .lns import Lns
from .subject import INSIDE, MTU, Packets

UNPACKED = Path(__file__).resolve().parents[1] / "build" / "peers"
# In an /etc of its own, where there is nothing but its folder ($0).
ALONE = 'mount -t tmpfs none /etc && mkdir /etc/l2tpns && mount --bind "$0" /etc/l2tpns && exec "$1" -c /etc/l2tpns/startup-config'
SECRET = "bench"
START = 10.0                # seconds, at most
OVERHEAD = 38               # what l2tp_mtu counts beside the inner packet
POOL = [f"10.67.{1 << n}.0/{24 - n}" for n in range(8)]         # all of 10.67.0.0/16 but the first 256, where INSIDE is
CONFIGURATION = f"""\
set debug 1
set log_file "{{folder}}/log"
set pid_file "{{folder}}/pid"
set l2tp_mtu {MTU + OVERHEAD}
set bind_address {HOST}
set cli_bind_address 127.0.0.1
set peer_address {INSIDE}
set iftun_address {INSIDE}
set tundevicename "l2tpns0"
set primary_radius 127.0.0.1
set primary_radius_port 1812
set radius_secret "{SECRET}"
set radius_authtypes "pap"
set radius_accounting no
set allow_duplicate_users yes
set cluster_interface "wire"
set cluster_hb_interval 2
set cluster_hb_timeout 10
set echo_timeout 3600
set idle_echo_timeout 7200
set ppp_keepalive yes
set lock_pages no
"""


class Server:
    """l2tpns and its RADIUS server in a namespace; it answers once constructed."""

    def __init__(self, side: Namespace, cpu: int | None = None, others: int | None = None) -> None:
        program, libraries = found()
        self.folder = scratch()
        self.radius = side.spawn([sys.executable, "-m", "headrace.bench.radius", "--listen", "127.0.0.1:1812", "--secret", SECRET], others,
                                 stdout=subprocess.PIPE)
        assert self.radius.stdout
        if self.radius.stdout.readline() != "ready\n":
            raise LabError("the RADIUS server did not start; what it said is above")
        (self.folder / "startup-config").write_text(CONFIGURATION.format(folder=self.folder))
        (self.folder / "ip_pool").write_text("".join(f"{network}\n" for network in POOL))
        (self.folder / "users").write_text("")
        self.process = side.spawn(
            ["unshare", "--mount", "sh", "-c", ALONE, str(self.folder), program], cpu, env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + START
        while not listens(side):
            if self.process.poll() is not None or time.monotonic() > until:
                raise LabError(f"l2tpns did not start: {self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        log = self.folder / "log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return lines[-1] if lines else f"it said nothing (status {self.process.poll()})"

    def roles(self) -> dict[str, list[int]]:
        return {"forwarder": [self.process.pid], "control": [self.radius.pid]}

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU, user and system, of each process. The RADIUS server would be another machine's."""
        return {"l2tpns": cpu_time(self.process.pid), "radius": cpu_time(self.radius.pid)}

    def sessions(self) -> int | None:
        """It tells nobody but who asks it by telnet."""
        return None

    def stop(self) -> None:
        """The lab ends the processes."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def found() -> tuple[str, str]:
    """The program, and where its libraries are beside the usual places."""
    if installed := shutil.which("l2tpns"):
        return installed, ""
    if (unpacked := UNPACKED / "usr/sbin/l2tpns").exists():
        return str(unpacked), ":".join(str(folder) for folder in (UNPACKED / "usr/lib").glob("*-linux-gnu*"))
    raise LabError("l2tpns is not there: `make packages` unpacks Debian's package of that name")


def listens(side: Namespace) -> bool:
    """Whether somebody has UDP port 1701 there."""
    with side.entered():
        return any(line.split()[1].endswith(":06A5") for line in Path("/proc/thread-self/net/udp").read_text().splitlines()[1:])


class L2tpns(Lns):
    """All of it is one process."""
    interface, whole, authentication = "l2tpns0", False, "pap"
    _server: Server | None = None

    @classmethod
    def check(cls) -> None:
        found()

    def start(self) -> None:
        self._server = Server(self.lab.host, FORWARDER, OTHERS)

    def roles(self) -> dict[str, list[int]]:
        assert self._server
        return self._server.roles()

    def packets(self) -> Packets:
        return Packets(*carried(self.lab.host, self.interface))

    def stop(self) -> None:
        super().stop()
        if self._server:
            self._server.stop()
