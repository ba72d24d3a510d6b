"""Tunnels of other kinds as subjects, for orientation: both ends are the same program, each with one TUN.

    peer    TUN -- wireguard-go or openvpn --- UDP on the wire --- the same -- TUN    host

Both encrypt, which L2TP does not: their costs say what a tunnel in user space is used to cost, and not who is better. The
generator sends into the TUN of one end, and the sink is a socket behind that of the other.
"""
from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from .concentrator import scratch
from .lab import FORWARDER, HOST, OTHERS, PEER, Lab, LabError, Namespace, carried
from .port import merge
from .subject import INSIDE, MTU, Far, Packets, Session, Subject, session_address

START = 15.0                # seconds, at most
SINK_PORT = 9


class Vpn(Subject):
    """Who derives from it starts the two ends."""
    many = False
    interface = "vpn0"
    tools: tuple[str, ...] = ()

    def __init__(self, lab: Lab, workers: int = 1) -> None:
        super().__init__(lab, workers)
        self._folder = scratch()
        self._inner: socket.socket | None = None
        self._ends: dict[str, subprocess.Popen[str]] = {}

    @classmethod
    def check(cls) -> None:
        missing = [tool for tool in cls.tools if not shutil.which(tool)]
        if missing:
            raise LabError(f"{' and '.join(missing)} must be installed: Debian has {'it' if len(missing) == 1 else 'them'}")

    def _up(self, side: Namespace) -> bool:
        with side.entered():
            return self.interface in [name for _, name in socket.if_nameindex()]

    def _wait(self, what: str, ready: object) -> None:
        until = time.monotonic() + START
        assert callable(ready)
        while not ready():
            dead = [end for end in self._ends.values() if end.poll() is not None]
            if dead or time.monotonic() > until:
                log = self._folder / "log"
                words = log.read_text(errors="replace").splitlines() if log.exists() else []
                raise LabError(f"{self.tools[0]}: {what} did not come: {words[-1] if words else 'it said nothing'}")
            time.sleep(0.05)

    def _spawn(self, name: str, side: Namespace, command: list[str]) -> None:
        with open(self._folder / "log", "ab") as log:
            self._ends[name] = side.spawn(command, FORWARDER if name == "forwarder" else OTHERS, stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=subprocess.STDOUT, start_new_session=name == "forwarder")

    def _answers(self) -> bool:
        """Whether a packet gets through."""
        try:
            self.lab.peer.run("ping", "-n", "-c", "1", "-W", "1", INSIDE)
        except LabError:
            return False
        return True

    def dial(self) -> str:
        self._wait("an answer", self._answers)
        return session_address(0)

    def attach(self, sessions: int) -> Far:
        self.dial()
        with self.lab.peer.entered():
            self._inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._inner.bind((session_address(0), SINK_PORT))
        merge(self._inner)
        return Far(self._inner, (HOST, 0), "bare", [Session(1, 1, session_address(0))], self.interface, False, self.interface)

    def roles(self) -> dict[str, list[int]]:
        return {name: [process.pid] for name, process in self._ends.items()}

    def packets(self) -> Packets:
        return Packets(*carried(self.lab.host, self.interface))

    def stop(self) -> None:
        if self._inner:
            self._inner.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class WireguardGo(Vpn):
    """WireGuard in Go: ChaCha20-Poly1305. Its socket for `wg` is in a mount namespace of each end's own."""
    tools = ("wireguard-go", "wg")
    PORT, RUN = 51820, "/run/wireguard"

    def start(self) -> None:
        ends = (("forwarder", self.lab.host, HOST, INSIDE), ("peer", self.lab.peer, PEER, session_address(0)))
        keys = {name: self.lab.host.run("wg", "genkey").strip() for name, *_ in ends}
        public = {}
        for name, key in keys.items():
            (self._folder / name).touch(mode=0o600)
            (self._folder / name).write_text(key)
            public[name] = subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True, check=True).stdout.strip()
        Path(self.RUN).mkdir(exist_ok=True)
        for (name, side, _, inner), (far, _, outer, _) in zip(ends, ends[::-1], strict=True):
            self._spawn(name, side, ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {self.RUN} && exec wireguard-go -f $0",
                                     self.interface])
            self._wait("its TUN", lambda side=side: self._up(side))
            inside = ["nsenter", "-t", str(self._ends[name].pid), "-m"]
            self._wait("its socket", lambda side=side, inside=inside: self._set(side, inside))
            side.run(*inside, "wg", "set", self.interface, "listen-port", str(self.PORT), "private-key", str(self._folder / name),
                     "peer", public[far], "allowed-ips", "0.0.0.0/0", "endpoint", f"{outer}:{self.PORT}")
            side.configure(self.interface, f"{inner}/16", MTU)

    def _set(self, side: Namespace, inside: list[str]) -> bool:
        try:
            side.run(*inside, "wg", "show", self.interface)
        except LabError:
            return False
        return True


class Openvpn(Vpn):
    """OpenVPN in user space: TLS between two keys made for this run, AES-256-GCM."""
    tools = ("openvpn", "openssl")
    PORT = 1194

    def start(self) -> None:
        ends = (("forwarder", self.lab.host, HOST, INSIDE), ("peer", self.lab.peer, PEER, session_address(0)))
        prints = {}
        for name, *_ in ends:
            key, certificate = str(self._folder / f"{name}.key"), str(self._folder / f"{name}.crt")
            self.lab.host.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                              "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate)
            said = self.lab.host.run("openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
            prints[name] = said.partition("=")[2].strip()
        for (name, side, local, inner), (far, _, outer, theirs) in zip(ends, ends[::-1], strict=True):
            self._spawn(name, side, [
                "openvpn", "--dev", self.interface, "--dev-type", "tun", "--ifconfig", inner, theirs, "--tun-mtu", str(MTU),
                "--mssfix", "0", "--local", local, "--remote", outer, "--port", str(self.PORT), "--proto", "udp4", "--dh", "none",
                "--tls-server" if name == "forwarder" else "--tls-client", "--cert", str(self._folder / f"{name}.crt"),
                "--key", str(self._folder / f"{name}.key"), "--peer-fingerprint", prints[far], "--data-ciphers", "AES-256-GCM",
                "--fast-io", "--verb", "1"])
        for side in (self.lab.host, self.lab.peer):
            self._wait("its TUN", lambda side=side: self._up(side))
