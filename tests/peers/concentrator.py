"""A concentrator under test: `headrace serve` in the lab's namespace, seen as an operator sees it.

It is started with a generated configuration and asked through its API socket and its command line.
`stop` also says what it left behind: there must be nothing.
"""
from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from headrace.control.client import Connection

from peers.lab import PASSWORD, Lab, until

HEADRACE = str(Path(sys.executable).with_name("headrace"))
LOCAL = "10.67.0.1"         # the concentrator's address inside the tunnels


def configuration(run_dir: str, pptp: dict[str, Any] | None = None, pppoe: list[dict[str, Any]] | None = None,
                  **server: Any) -> dict[str, Any]:
    """What most tests need; `server` are keys of [server.l2tp], `pptp` those of [server.pptp], which is enabled when there are any,
    `pppoe` those of each [[server.pppoe]], on the wire if they do not say where."""
    both = {"enabled": True, "authentication": ["mschap2", "mschap1", "chap", "pap"], "default-profile": "default",
            "max-mtu": 1450, "max-mru": 1450, "keepalive-timeout": "30s"}
    return {
        "concentrator": {"interface": "hr0", "workers": 1, "run-dir": run_dir, "forwarding": True, "log": "debug"},
        "pools": {"clients": ["10.67.0.0/16"]},
        "profiles": {"default": {"local-address": LOCAL, "remote-address": "clients", "dns-server": [LOCAL]}},
        "secrets": {user: {"password": PASSWORD, "profile": "default"} for user in ("joe", "ann", "eve", "bob")},
        "server": {"l2tp": {**both, "listen": ["0.0.0.0:1701", "[::]:1701"], **server},
                   "pptp": {**both, "enabled": pptp is not None, **(pptp or {})},
                   **({"pppoe": [{"interface": "wire", "authentication": both["authentication"], "default-profile": "default", **service}
                                 for service in pppoe]} if pppoe else {})},
    }


def toml(table: dict[str, Any], path: str = "") -> str:
    """A nested table as TOML; JSON's strings, numbers and arrays are TOML's too."""
    text = f"[{path}]\n" if path else ""
    inner = ""
    for key, value in table.items():
        below = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            inner += toml(value, below)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner += "".join(f"[{toml(one, below)}".replace("]", "]]", 1) for one in value)
        else:
            text += f"{key} = {json.dumps(value)}\n"
    return text + inner


class Concentrator:
    def __init__(self, lab: Lab, concentrator: dict[str, Any] | None = None, environment: dict[str, str] | None = None,
                 tables: dict[str, dict[str, Any]] | None = None, **server: Any) -> None:
        """Start one and wait until it answers. `concentrator` are keys of that table, `server` keys of [server.l2tp], `tables` other
        tables, in place of what `configuration` has under the same name."""
        self.lab = lab
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-"))      # short: a Unix socket's path has 107 octets
        self.run_dir, self.file = self.folder / "run", self.folder / "headrace.toml"
        config = configuration(str(self.run_dir), **server)
        config["concentrator"].update(concentrator or {})
        config.update(tables or {})
        self.config = config
        self.file.write_text(toml(config))
        self.file.chmod(0o600)
        self.sysctls = self._sysctls()
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", lab.netns, HEADRACE, "serve", "-c", str(self.file)], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}, start_new_session=True)
        try:
            until("the API answers", self._answers, 20)
        except BaseException as error:
            self.abandon()
            raise AssertionError(f"{error}; its log:\n{self.log}") from error

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"headrace serve ended with {self.process.returncode}:\n{self.log}"
        try:
            return self.sessions() == []
        except (OSError, http.client.HTTPException):
            return False

    def _sysctls(self) -> str:
        return self.lab.on_host(self.lab.netns, "sysctl", "-a", "-r", r"(forwarding|ip_forward|send_redirects|rp_filter|accept_ra)$").stdout

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def logs(self, pattern: str, seconds: float = 10) -> str:
        """Wait for a line in the log that matches; return it."""
        return until(f"{pattern!r} in the log", lambda: re.search(f".*(?:{pattern}).*", self.log), seconds)[0]

    def get(self, path: str) -> Any:
        """GET /v1/<path>, decoded."""
        api = Connection(self.run_dir / "api.sock", timeout=5)
        try:
            api.request("GET", f"/v1/{path}")
            response = api.getresponse()
            body = response.read()
            assert response.status == 200, f"{path}: {response.status} {body!r}"
            return json.loads(body)
        finally:
            api.close()

    def sessions(self) -> list[dict[str, Any]]:
        found = self.get("sessions")
        assert isinstance(found, list), found
        return found

    def session(self, user: str) -> dict[str, Any] | None:
        """The user's open session, if there is one."""
        return next((s for s in self.sessions() if s["user"] == user and s["state"] == "open"), None)

    def command(self, *argv: str, check: bool = True) -> str:
        """The output of `headrace ARGV -c FILE`."""
        argv = (HEADRACE, *argv, "-c", str(self.file))
        result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        if check:
            assert result.returncode == 0, f"{' '.join(argv)}: {result.returncode}\n{result.stdout}{result.stderr}"
        else:
            assert result.returncode != 0, f"{' '.join(argv)} did not fail: {result.stdout}"
        return result.stdout if check else result.stderr

    def json(self, *argv: str) -> Any:
        return json.loads(self.command(*argv, "--json"))

    def child(self, role: str) -> int:
        """The pid of the child with this role: control or forwarder."""
        module = {"control": "headrace.control.server", "forwarder": "headrace.control.forwarder"}[role]
        pids = [pid for pid, line in self.lab.strangers().items() if module in line]
        assert len(pids) == 1, f"{role}: {pids} of {self.lab.strangers()}"
        return pids[0]

    def kill_child(self, role: str) -> None:
        os.kill(self.child(role), signal.SIGKILL)

    def link(self) -> dict[str, Any]:
        """hr0 as the kernel sees it: its index, addresses and routes."""
        ip = ("ip", "-n", self.lab.netns, "-j")
        link = json.loads(subprocess.run([*ip, "addr", "show", "dev", "hr0"], capture_output=True, check=True).stdout)[0]
        routes = json.loads(subprocess.run([*ip, "route", "show", "dev", "hr0"], capture_output=True, check=True).stdout)
        addresses = [(a["local"], a["prefixlen"]) for a in link["addr_info"]]
        return {"ifindex": link["ifindex"], "addresses": addresses, "routes": [route["dst"] for route in routes]}

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Ctrl-C; then nothing may be left: no process, no hr0, no changed setting."""
        if not self.folder.exists():        # stopped by its test
            return
        try:
            self.process.send_signal(signum)
            code = self.process.wait(20)
            log = self.log
            assert code == 0, f"headrace serve ended with {code}:\n{log}"
            until("its processes are gone", lambda: not self.lab.strangers(), 2)
            links = subprocess.run(["ip", "-n", self.lab.netns, "-o", "link"], capture_output=True, text=True, check=True).stdout
            assert "hr0" not in links, f"hr0 is left behind: {links}\n{log}"
            assert self._sysctls() == self.sysctls, f"settings were not put back:\n{log}"
            assert "Traceback" not in log and PASSWORD not in log, log
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End what this concentrator still runs, however it stands, and show its log with the test."""
        if not self.folder.exists():
            return
        self.process.kill()
        self.process.wait()
        for pid in self.lab.strangers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "-n", self.lab.netns, "link", "del", "hr0"], stderr=subprocess.DEVNULL)
        print(f"--- {self.file}\n{self.file.read_text()}--- its log\n{self.log}")
        shutil.rmtree(self.folder)
