"""`headrace run` in an empty folder: what `make run` does after the build, with nothing but what it prints."""
import os
import re
import signal
import stat
import subprocess

import pytest
from ours.packets import answered, ping
from peers.concentrator import HEADRACE, LOCAL
from peers.lab import until

pytestmark = pytest.mark.root


@pytest.fixture
def run(place, tmp_path):
    """Start it as from a terminal, with a /run of its own; its process and its log."""
    started = []

    def run():
        log = tmp_path / f"log{len(started)}"
        inside = f"mount -t tmpfs none /run && exec {HEADRACE} run"
        with open(log, "wb") as out:
            process = subprocess.Popen(["ip", "netns", "exec", place.netns, "sh", "-c", inside], cwd=tmp_path, stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        started.append(process)
        until("it is ready", lambda: process.poll() is not None or "ready" in log.read_text(), 20)
        assert process.poll() is None, log.read_text()
        return process, log
    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def ctrl_c(process):
    """What a terminal does: the whole foreground group gets it."""
    os.killpg(process.pid, signal.SIGINT)


def test_from_an_empty_folder_to_a_session_and_back(place, run, lac, tmp_path):
    process, log = run()
    file = tmp_path / "headrace.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said = re.search(r"user (\S+), password (\S+)$", log.read_text(), re.M)
    assert said and said[2] in file.read_text() and "UDP port 1701" in log.read_text()
    client = lac()
    caller = client.call(said[1], password=said[2])
    caller.ip(ping(caller.address, LOCAL, 1))
    client.until("an echo", lambda: answered(caller.received, 1), 5)
    assert "hr0" in place.on_host(place.netns, "ip", "-o", "link").stdout
    ctrl_c(process)
    client.until("StopCCN", lambda: caller.tunnel in client.ended, 5)
    assert "shutting down" in client.ended[caller.tunnel].reason.text
    client.until("it ended", lambda: process.poll() is not None, 10)
    assert process.returncode == 0, log.read_text()
    assert "hr0" not in place.on_host(place.netns, "ip", "-o", "link").stdout and place.strangers() == {}

    written = file.read_text()
    process, log = run()                # the file is there now: it stays, and so does the password
    assert file.read_text() == written and "wrote" not in log.read_text()
    again = lac()
    again.call(said[1], password=said[2])
    ctrl_c(process)
    again.until("it ended", lambda: process.poll() is not None, 10)
    assert process.returncode == 0
