"""A throwaway Linux guest (User-Mode Linux) with what a host's kernel may lack, PPP and L2TP among
it, and with Debian's peers: pppd, pptp, pptpd, xl2tpd, rp-pppoe, sstpc, strongSwan.

    with Guest([Nic("peer0", "10.9.0.1/24", "10.9.0.2/24")], netns="lab") as guest:
        guest.run("ping -c1 10.9.0.1").check()
        job = guest.spawn("pptpd -f"); ...; print(job.output())

It talks to the host through TAP interfaces in a namespace. Its root is read-only under a tmpfs
overlay, the host's files are read-only at /host, and its state folder is /share; nothing that it
writes elsewhere outlives it. By hand: `guest.py COMMAND` boots one, runs the command and powers off.
"""
from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from peers.root import MODULES, GuestError, prepare, sh

KERNEL_MODULES = ["ppp_async", "ppp_synctty", "ppp_mppe", "ppp_deflate", "bsd_comp", "pptp", "pppoe", "l2tp_ppp", "veth", "tun", "bridge"]

# The guest's PID 1, second part: the overlay becomes the root, then each ID that comes in on the serial line runs /share/ID.sh.
INIT = f"""
mount -t tmpfs -o size=75% tmpfs /media
mount -t hostfs -o {MODULES} modules /lib/modules
mkdir /media/up /media/work /media/root
modprobe overlay
mount -t overlay -o lowerdir=/,upperdir=/media/up,workdir=/media/work overlay /media/root
cd /media/root
mount -t hostfs -o {MODULES} modules lib/modules
mount -t proc proc proc; mount -t sysfs sys sys; mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm share host old
mount -t devpts devpts dev/pts; mount -t tmpfs tmpfs run
mount -t hostfs -o "$SHARE" share share; mount -t hostfs -o ro,/ host host
pivot_root . old; cd /
mkdir -p /run/lock /run/pppd /run/xl2tpd /run/netns
mkfifo /run/never
modprobe -a {' '.join(KERNEL_MODULES)}
ip -b /share/ip.batch
stty -F /dev/ttyS0 raw -echo
exec 3<>/dev/ttyS0 </dev/null
( sleep "$LIFETIME"; echo o >/proc/sysrq-trigger ) 3>&- &
echo "up 0" >&3
while read -r id <&3; do
    ( bash /share/$id.sh 3>&- >/share/$id.out 2>&1; rc=$?; sync /share/$id.out; echo "$id $rc" >&3 ) &
done
echo o >/proc/sysrq-trigger; sleep 5
"""


@dataclasses.dataclass
class Nic:
    """A link between the guest (vec0, vec1, ...) and a TAP in the guest's namespace."""
    tap: str
    host: str = ""          # address/prefix of the host's end; empty: none
    guest: str = ""         # address/prefix of the guest's end; empty: none
    mac: str = ""
    offload: bool = True    # False: no checksum offload or TSO, for a host end that is read with AF_PACKET
    mtu: int = 1500


@dataclasses.dataclass
class Result:
    """How a command in the guest ended."""
    rc: int
    out: str

    def check(self) -> str:
        """Its output; GuestError when it failed."""
        if self.rc:
            raise GuestError(f"exit status {self.rc}:\n{self.out}")
        return self.out


class Job:
    """A command that runs in the guest."""

    def __init__(self, guest: Guest, name: str) -> None:
        self.guest, self.name, self.rc, self.done = guest, name, -1, threading.Event()

    def wait(self, timeout: float = 60) -> Result:
        deadline = time.monotonic() + timeout
        while not self.done.wait(min(0.5, max(0, deadline - time.monotonic()))):
            self.guest.alive()
            if time.monotonic() >= deadline:
                raise TimeoutError(f"still running after {timeout} s; so far:\n{self.output()}")
        return Result(self.rc, self._read())

    def output(self) -> str:
        """What it has printed so far."""
        if not self.done.is_set():      # the guest's page cache holds it until a sync
            self.guest.spawn(f"sync /share/{self.name}.out").done.wait(5)
        return self._read()

    def _read(self) -> str:
        return (self.guest.folder / f"{self.name}.out").read_text(errors="replace")


class Guest:
    def __init__(self, nics: list[Nic] | None = None, netns: str = "", memory: str = "256M", lifetime: int = 1800,
                 boot_timeout: float = 60) -> None:
        self.nics, self.netns, self.count = nics or [], netns, 0
        self.jobs: dict[str, Job] = {}
        self.undo: list[tuple[str, ...]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.write_lock = threading.Lock()
        root, library = prepare()
        self.folder = Path(tempfile.mkdtemp(prefix="guest-"))
        try:
            self._network()
            (self.folder / "init").write_text(f"LIFETIME={lifetime}\n{INIT}")
            (self.folder / "ip.batch").write_text("link set lo up\n" + "".join(
                f"link set vec{i} up\n" + (f"addr add {nic.guest} dev vec{i}\n" if nic.guest else "") for i, nic in enumerate(self.nics)))
            up = self._job("up")
            self._boot(root, library, memory)
            up.wait(boot_timeout)
            for i, nic in enumerate(self.nics):
                if not nic.offload:
                    self.run(f"ethtool -K vec{i} tx off tso off gso off").check()
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise GuestError("the guest did not come up") from error
            raise

    def _network(self) -> None:
        ip = ("ip", "-n", self.netns) if self.netns else ("ip",)
        if self.netns and self.netns not in sh("ip", "netns", "list").split():
            sh("ip", "netns", "add", self.netns)
            self.undo.append(("ip", "netns", "del", self.netns))
            sh(*ip, "link", "set", "lo", "up")
        for i, nic in enumerate(self.nics):
            nic.mac = nic.mac or "02:" + ":".join(f"{octet:02x}" for octet in os.urandom(4)) + f":{i:02x}"
            sh(*ip, "tuntap", "add", nic.tap, "mode", "tap", "vnet_hdr")
            self.undo.append((*ip, "link", "del", nic.tap))
            sh(*ip, "link", "set", nic.tap, "mtu", str(nic.mtu))
            if nic.host:
                sh(*ip, "addr", "add", nic.host, "dev", nic.tap)
            sh(*ip, "link", "set", nic.tap, "up")

    def _boot(self, root: Path, library: Path, memory: str) -> None:
        argv = ["ip", "netns", "exec", self.netns] if self.netns else []
        argv += ["env", f"LD_PRELOAD={library}", "linux.uml", f"mem={memory}", "root=/dev/root", "rootfstype=hostfs",
                 f"rootflags={root}", "ro", "init=/sbin/peer-init", f"SHARE={self.folder}", f"uml_dir={self.folder}/", "umid=uml",
                 "con=null", "con0=null,fd:2", "ssl=null", "ssl0=fd:0,fd:1", "quiet", "random.trust_cpu=on"]
        argv += [f"vec{i}:transport=tap,ifname={nic.tap},depth=128,gro=1,mac={nic.mac},mtu={nic.mtu}" for i, nic in enumerate(self.nics)]
        with open(self.folder / "console", "wb") as console:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=console,
                                            start_new_session=True, bufsize=0)
        self.reader = threading.Thread(target=self._listen, daemon=True)
        self.reader.start()

    def _listen(self) -> None:
        assert self.process and self.process.stdout
        for line in self.process.stdout:
            name, _, rc = line.decode(errors="replace").strip().partition(" ")
            job = self.jobs.get(name)
            if job and rc.isdigit():
                job.rc = int(rc)
                job.done.set()

    def _job(self, name: str) -> Job:
        (self.folder / f"{name}.out").touch()
        job = self.jobs[name] = Job(self, name)
        return job

    def spawn(self, command: str) -> Job:
        """Start a bash command in the guest."""
        with self.write_lock:
            self.count += 1
            name = f"c{self.count}"
            (self.folder / f"{name}.sh").write_text(command)
            job = self._job(name)
            self.alive()
            assert self.process and self.process.stdin
            self.process.stdin.write(f"{name}\n".encode())
        return job

    def run(self, command: str, timeout: float = 60) -> Result:
        return self.spawn(command).wait(timeout)

    def alive(self) -> None:
        """Raise GuestError when the guest is gone."""
        if self.process is None or self.process.poll() is not None:
            raise GuestError("the guest is gone:\n" + (self.folder / "console").read_text(errors="replace")[-2000:])

    def close(self) -> None:
        if self.process:
            assert self.process.stdin and self.process.stdout
            self.process.stdin.close()      # the loop in the guest ends and powers it off
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            with contextlib.suppress(ProcessLookupError):   # the guest's processes are this session's, whatever is left of them
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.reader.join(5)
            self.process.stdout.close()
        for argv in reversed(self.undo):
            subprocess.run(argv, stderr=subprocess.DEVNULL)
        self.undo = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


if __name__ == "__main__":
    with Guest() as hand:
        result = hand.run(" ".join(sys.argv[1:]), 600)
    print(result.out, end="")
    sys.exit(result.rc)
