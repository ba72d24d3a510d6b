"""The supervisor: what it keeps, whom it restarts, and that nothing is left.

With stand-ins for the children (standin.py), in a namespace.
"""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace.control import privilege
from headrace.control.child import Child
from headrace.control.supervisor import alive
from peers.lab import until
from test_privilege import status

# -- when a child comes back -------------------------------------------------------------------

@pytest.mark.parametrize("ends, waits", [([100], [0]), ([100, 101], [0, 0]), ([100, 101, 102], [0, 0, 0.5]),
                                         ([100, 101, 102, 103], [0, 0, 0.5, 1]),
                                         ([100, 120, 140, 160], [0, 0, 0, 0]), ([100, 101, 115, 116, 117], [0, 0, 0, 0, 0.5])])
def test_back_off(ends, waits):
    child = Child("forwarder", ["/bin/false"], os.sched_getaffinity(0))
    for now, wait in zip(ends, waits, strict=True):
        child.start([])
        assert child.reap(now) == "ended with status 1"
        assert child.due == now + wait


# -- the whole, in a namespace -----------------------------------------------------------------

CONFIG = """\
[concentrator]
run-dir = "{run_dir}"
workers = 2
{concentrator}
[pools]
clients = ["10.67.0.0/16"]
{pools}
[profiles.default-encryption]
local-address = "10.67.0.1"
remote-address = "clients"
[secrets.joe]
password = "swordfish"
[server.l2tp]
enabled = true
listen = ["0.0.0.0:1701", "[::]:1701"]
{l2tp}
"""


class Place:
    """A namespace with a run directory; supervisors in it, and what they left."""

    def __init__(self) -> None:
        self.netns = f"hrs{os.getpid()}"
        self.folder = Path(tempfile.mkdtemp(prefix="hr-"))
        self.run_dir = self.folder / "run"
        self.file = self.folder / "headrace.toml"
        self.processes: list[subprocess.Popen] = []
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
        self.configure()

    def configure(self, concentrator: str = "", l2tp: str = "", pools: str = "") -> None:
        self.file.write_text(CONFIG.format(run_dir=self.run_dir, concentrator=concentrator, l2tp=l2tp, pools=pools))

    def run(self, *argv: str) -> str:
        return subprocess.run(["ip", "netns", "exec", self.netns, *argv], check=True, capture_output=True, text=True).stdout

    def start(self, mounts: str = "true", **environment: str) -> subprocess.Popen:
        """A supervisor, up; `mounts` is a command that changes its view of the file system."""
        process = self.spawn(mounts, **environment)
        until("ready", lambda: "headrace.supervisor: ready" in self.log or process.poll() is not None, 20)
        assert process.poll() is None, self.log
        return process

    def spawn(self, mounts: str = "true", **environment: str) -> subprocess.Popen:
        argv = [sys.executable, str(Path(__file__).with_name("standin.py")), "serve", str(self.file)]
        with open(self.folder / "log", "wb") as log:
            self.processes.append(subprocess.Popen(
                ["ip", "netns", "exec", self.netns, "sh", "-c", f'{mounts} && exec "$@"', "sh", *argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True))
        return self.processes[-1]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def pids(self) -> dict[str, int]:
        return json.loads((self.run_dir / "pids").read_text())

    def interface(self) -> dict:
        """hr0 as the kernel sees it: nothing of this may change when a child dies."""
        link = json.loads(self.run("ip", "-j", "-d", "addr", "show", "hr0"))[0]
        routes = json.loads(self.run("ip", "-j", "route", "show", "dev", "hr0"))
        return {"ifindex": link["ifindex"], "mtu": link["mtu"], "gso": link["gso_max_size"],
                "queues": link["linkinfo"]["info_data"]["numqueues"],
                "addresses": [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["family"] == "inet"],
                "routes": [route["dst"] for route in routes]}

    def settings(self) -> str:
        return self.run("sysctl", "-a", "-r", r"\.(forwarding|ip_forward|send_redirects|accept_redirects|rp_filter|accept_ra)$")

    def tables(self) -> list[str]:
        """The names of nftables' tables."""
        code = ("from pyroute2.nftables.main import NFTables\n"
                "with NFTables(nfgen_family=2) as nft: print(*[t.get_attr('NFTA_TABLE_NAME') for t in nft.get_tables()])")
        return self.run(sys.executable, "-c", code).split()

    def names(self) -> list[str]:
        return [link["ifname"] for link in json.loads(self.run("ip", "-j", "link"))]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "del", self.netns], check=True)
        print(self.log if (self.folder / "log").exists() else "no log")


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


@pytest.mark.root
def test_up_and_orderly_down(place):
    place.run("sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0", "net.ipv6.conf.up0.accept_ra=1", "net.ipv4.conf.up1.forwarding=1")
    before = place.settings()
    process = place.start()
    assert place.interface() == {"ifindex": place.interface()["ifindex"], "mtu": 1450, "gso": 62000, "queues": 2,
                                 "addresses": ["10.67.0.1/32"], "routes": ["10.67.0.0/16"]}
    during = place.settings().splitlines()
    assert {"net.ipv4.ip_forward = 1", "net.ipv4.conf.all.send_redirects = 0", "net.ipv4.conf.hr0.send_redirects = 0",
            "net.ipv4.conf.hr0.rp_filter = 0", "net.ipv6.conf.hr0.accept_ra = 0", "net.ipv6.conf.all.forwarding = 1",
            "net.ipv6.conf.up0.accept_ra = 2"} <= set(during)
    assert set((place.run_dir / "control.names").read_text().split()) == {
        "config", "offload", "tables", "tun/hr0/0", "tun/hr0/1", "punt/0/control", "punt/0/forwarder", "punt/1/control", "punt/1/forwarder",
        "taps/forwarder",
        *(f"udp/{listen}/{number}" for listen in ("0.0.0.0:1701", "[::]:1701") for number in range(4))}
    assert (place.run_dir / "tables").stat().st_mode & 0o777 == 0o600
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert (place.run_dir / "ended").read_text() == "control\nforwarder\n"
    assert "hr0" not in place.names() and place.settings() == before
    assert sorted(p.name for p in place.run_dir.iterdir()) == ["control.names", "ended", "forwarder.names", "lock"]


@pytest.mark.root
def test_a_signal_to_the_group_reaches_the_supervisor_alone(place):
    """Ctrl-C in a terminal goes to the foreground process group: the children must hear of it from us, in order."""
    process = place.start()
    assert os.getpgid(place.pids()["control"]) != os.getpgid(process.pid)
    os.kill(place.pids()["control"], signal.SIGINT)
    os.kill(place.pids()["forwarder"], signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 0
    assert (place.run_dir / "ended").read_text() == "control\nforwarder\n"


@pytest.mark.root
@pytest.mark.parametrize("role", ["forwarder", "control"])
def test_a_killed_child_comes_back_and_nothing_else_moves(place, role):
    place.start()
    before, pids = place.interface(), place.pids()
    killed = time.monotonic()
    os.kill(pids[role], signal.SIGKILL)
    until("restarted", lambda: place.pids()[role] != pids[role], 1, 0.005)
    assert time.monotonic() - killed < 1
    after = place.pids()
    assert {r: after[r] for r in after if r != role} == {r: pids[r] for r in pids if r != role}
    assert place.interface() == before
    assert f"{role} was killed by SIGKILL; it is started again\n" in place.log


@pytest.mark.root
def test_control_can_be_held_dead(place):
    place.start(HEADRACE_HOLD_CONTROL="0.3")
    control = place.pids()["control"]
    killed = time.monotonic()
    os.kill(control, signal.SIGKILL)
    until("restarted", lambda: place.pids()["control"] != control, 5, 0.01)
    assert time.monotonic() - killed > 0.3


@pytest.mark.root
def test_a_killed_supervisor_leaves_no_process_and_the_next_cleans_up(place):
    place.run("sysctl", "-qw", "net.ipv4.conf.up0.send_redirects=0", "net.ipv4.conf.all.accept_redirects=0")
    before = place.settings()
    place.configure('masquerade = "up0"')
    first = place.start()
    pids = place.pids()
    assert place.tables() == ["headrace-hr0"]
    first.kill()
    first.wait()
    place.configure('forwarding = false')       # the next one does not even want what is to be undone
    second = place.start()
    assert not any(alive(pid) for pid in pids.values())
    assert "putting back what it changed" in place.log and "net.ipv4.ip_forward: back to 0" in place.log
    assert place.tables() == []
    assert [line for line in place.settings().splitlines() if "hr0" not in line] == before.splitlines()
    second.terminate()
    assert second.wait(10) == 0
    assert place.settings() == before and "hr0" not in place.names()


@pytest.mark.root
def test_a_second_one_is_refused(place):
    first = place.start()
    pid = place.pids()["supervisor"]
    second = place.spawn()
    assert second.wait(10) == 1
    assert place.log.splitlines() == [f"headrace is running already with the run directory {place.run_dir} (process {pid}); stop it first"]
    assert first.poll() is None and place.interface()


@pytest.mark.root
@pytest.mark.parametrize("arrange", [["ip", "link", "set", "up1", "name", "hr0"],
                                     ["ip", "tuntap", "add", "hr0", "mode", "tun", "multi_queue"]])
def test_an_interface_of_somebody_else(place, arrange):
    place.run(*arrange)
    assert place.spawn().wait(10) == 1
    assert place.log == "the interface hr0 exists already: name another in [concentrator] interface, or remove it\n"
    assert "hr0" in place.names()


@pytest.mark.root
def test_settings_that_cannot_be_written_are_a_warning(place):
    """A container's /proc/sys may be read-only."""
    process = place.start(mounts="mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    assert "WARNING headrace.kernel: /proc/sys/net/ipv4/ip_forward cannot be set to 1: Read-only file system" in place.log
    assert place.interface()["routes"] == ["10.67.0.0/16"]
    process.terminate()
    assert process.wait(10) == 0 and "Traceback" not in place.log


@pytest.mark.root
@pytest.mark.parametrize("l2tp, taken, sentence", [
    ("", 1701, "cannot listen on 0.0.0.0:1701: another program has that UDP port; end it, or change server.l2tp.listen"),
    ("10.1.2.3:1701", 0, "cannot listen on 10.1.2.3:1701: no interface has that address; change server.l2tp.listen"),
])
def test_a_port_that_cannot_be_had(place, l2tp, taken, sentence):
    if l2tp:
        place.file.write_text(place.file.read_text().replace("0.0.0.0:1701", l2tp))
    before = place.settings()
    code = ("import signal, socket; s = socket.socket(type=socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
            "s.bind(('', 1701)); print(flush=True); signal.pause()")
    holder = subprocess.Popen(["ip", "netns", "exec", place.netns, sys.executable, "-c", code], stdout=subprocess.PIPE) if taken else None
    if holder:
        place.processes.append(holder)
        holder.stdout.readline()
    process = place.spawn()
    assert process.wait(10) == 1
    assert place.log.splitlines()[-1] == sentence and "Traceback" not in place.log
    assert place.settings() == before and "hr0" not in place.names()


@pytest.mark.root
def test_a_child_that_never_comes_up_ends_the_start(place):
    before = place.settings()
    process = place.spawn(STANDIN_FAILS="forwarder")
    assert process.wait(20) == 1
    assert place.log.splitlines()[-1] == "forwarder ended with status 3, 3 times before it was ready; its messages are above"
    assert place.settings() == before and "hr0" not in place.names()


@pytest.mark.root
@pytest.mark.parametrize("offload, tun, udp", [("uso", "uso", True), ("tso", "tso", True), ("csum", "csum", True), ("none", "none", False)])
def test_offload_sets(place, offload, tun, udp):
    place.configure(f'offload = "{offload}"')
    place.start()
    features = place.run("ethtool", "-k", "hr0")
    assert ("tx-checksumming: on" in features) == (tun != "none")
    assert ("tx-tcp-segmentation: on" in features) == (tun in ("uso", "tso"))
    assert ("tx-udp-segmentation: on" in features) == (tun == "uso")
    assert f"offloads in force: {tun} on hr0, {'segmentation and GRO' if udp else 'none'} on UDP" in place.log


@pytest.mark.root
def test_reload(place):
    place.start()
    index = place.interface()["ifindex"]
    place.configure('log = "warning"', l2tp="max-mtu = 1400", pools='guests = ["10.68.0.0/24"]')
    os.kill(place.pids()["supervisor"], signal.SIGHUP)
    until("reloaded", (place.run_dir / "reloaded").exists)
    until("answered", lambda: (place.run_dir / "reloaded").read_text())
    assert (place.run_dir / "reloaded").read_text() == "taken"
    assert place.interface() == {"ifindex": index, "mtu": 1400, "gso": 62000, "queues": 2, "addresses": ["10.67.0.1/32"],
                                 "routes": ["10.67.0.0/16", "10.68.0.0/24"]}
    (place.run_dir / "reloaded").unlink()
    place.configure()
    os.kill(place.pids()["supervisor"], signal.SIGHUP)
    until("reloaded", lambda: (place.run_dir / "reloaded").exists() and (place.run_dir / "reloaded").read_text())
    assert place.interface()["routes"] == ["10.67.0.0/16"] and place.interface()["mtu"] == 1450
    assert place.log.count("SIGHUP") == 1       # the second one is below the level that the first one set


@pytest.mark.root
def test_what_a_reload_cannot_change(place):
    place.start()
    place.configure("max-sessions = 7")
    os.kill(place.pids()["supervisor"], signal.SIGHUP)
    until("reloaded", lambda: (place.run_dir / "reloaded").exists() and (place.run_dir / "reloaded").read_text())
    assert (place.run_dir / "reloaded").read_text() == "concentrator.max-sessions cannot change while headrace runs; restart it"


@pytest.mark.root
def test_privileges(place):
    """Every thread of every process, also of those that were started again; and the supervisor can still undo what it did."""
    before = place.settings()
    process = place.start()
    killed = place.pids()
    for role in ("forwarder", "control"):
        os.kill(killed[role], signal.SIGKILL)
        until("restarted", lambda role=role: place.pids()[role] != killed[role])
    here = privilege.foreign((Path(sys.executable), Path(privilege.__file__), place.file), (place.run_dir,))
    files = 1 << privilege.DAC_OVERRIDE if here else 0
    own = files | sum(1 << number for number in privilege.SUPERVISOR)
    for role, pid in place.pids().items():
        for task in Path("/proc", str(pid), "task").iterdir():
            have = status(pid, task.name)
            mask = own if role == "supervisor" else files
            assert have == {"CapInh": 0, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": 0,
                            "NoNewPrivs": int(role != "supervisor")}
    process.terminate()
    assert process.wait(10) == 0 and place.settings() == before and "hr0" not in place.names()


@pytest.mark.root
def test_secrets_are_in_no_argument_and_no_environment(place):
    place.start()
    for pid in place.pids().values():
        for what in ("cmdline", "environ"):
            assert b"swordfish" not in Path("/proc", str(pid), what).read_bytes()


@pytest.mark.root
def test_systemd_is_told(place):
    path = place.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind(str(path))
        process = place.start(NOTIFY_SOCKET=str(path))
        assert sock.recv(100) == b"READY=1"
        process.terminate()
        assert sock.recv(100) == b"STOPPING=1"
