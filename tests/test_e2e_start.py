"""`headrace serve` where it cannot run: one sentence that says what would be right, a status that is not 0, and nothing left behind."""
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from peers.concentrator import HEADRACE, configuration, toml

pytestmark = pytest.mark.root


@pytest.fixture
def configured(tmp_path):
    """A file for a concentrator of its own, by keys of [concentrator] and of [server.l2tp]."""
    def configured(concentrator=None, more="", **server):
        config = configuration(str(tmp_path / "run"), **server)
        config["concentrator"].update(concentrator or {})
        file = tmp_path / "headrace.toml"
        file.write_text(toml(config) + more)
        file.chmod(0o600)
        return file
    return configured


def fails(place, *argv, before=()):
    """What it says on standard error, where it must be one sentence besides the log."""
    done = subprocess.run(["ip", "netns", "exec", place.netns, *before, HEADRACE, *argv], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 1 and "Traceback" not in done.stderr, (done.returncode, done.stdout, done.stderr)
    assert "hr0" not in place.on_host(place.netns, "ip", "-o", "link").stdout
    assert place.strangers() == {}
    said = [line for line in done.stderr.splitlines() if line.startswith("headrace: ")]
    assert len(said) == 1, done.stderr
    return said[0]


@pytest.mark.parametrize("kind, port, server", [("UDP", 1701, "l2tp"), ("TCP", 1723, "pptp")])
def test_port_in_use(place, configured, kind, port, server):
    file = configured(listen=["0.0.0.0:1701"], pptp={"listen": ["0.0.0.0:1723"]})
    with place.entered(place.netns):
        sock = socket.socket(type=socket.SOCK_DGRAM if kind == "UDP" else socket.SOCK_STREAM)
    with sock:
        sock.bind(("10.9.0.1", port))
        if kind == "TCP":
            sock.listen()
        said = fails(place, "serve", "-c", str(file))
    assert said == (f"headrace: cannot listen on 0.0.0.0:{port}: another program has that {kind} port; end it, or change "
                    f"server.{server}.listen")


def test_no_tun(place, configured):
    """In a container that was not given the device."""
    file = configured()
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    said = fails(place, "serve", "-c", str(file), before=hide)
    assert "there is no /dev/net/tun" in said and "modprobe tun" in said


def test_no_privileges(place, configured):
    """As nobody, who may read all files, since the program may lie where others may not look: the run directory cannot be
    made, and where it can, the interface cannot."""
    nobody = pwd.getpwnam("nobody")
    reads = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search")
    drop = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *reads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)

        def tried(run_dir):
            file = shutil.copy(configured({"run-dir": run_dir}), folder)
            os.chown(file, nobody.pw_uid, nobody.pw_gid)
            return fails(place, "serve", "-c", file, before=drop)
        said = tried("/run/headrace-nobody")
        assert "/run/headrace-nobody" in said and "root" in said
        own = folder / "own"
        own.mkdir()
        os.chown(own, nobody.pw_uid, nobody.pw_gid)
        said = tried(str(own))
        assert "root" in said and "CAP_NET_ADMIN" in said


def test_unknown_key(place, configured):
    file = configured(more="[server.sstp]\nenabled = true\n")
    said = fails(place, "serve", "-c", str(file))
    assert said.startswith(f"headrace: {file}:") and "sstp" in said and "not in this version" in said


def test_no_file(place, tmp_path):
    assert "nowhere.toml" in fails(place, "serve", "-c", str(tmp_path / "nowhere.toml"))


def test_second_serve(place, here):
    """It names the process that has the run directory, and does not harm it."""
    running = here()
    done = subprocess.run(["ip", "netns", "exec", place.netns, HEADRACE, "serve", "-c", str(running.file)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=30)
    said = done.stderr.splitlines()
    assert done.returncode == 1 and len(said) == 1 and "is running already" in said[0] and str(running.process.pid) in said[0], done
    assert running.sessions() == [] and running.link()["routes"] == ["10.67.0.0/16"]


def test_interface_of_somebody_else(place, configured):
    file = configured({"interface": "wire"})
    assert "the interface wire exists already" in fails(place, "serve", "-c", str(file))
    assert "wire" in place.on_host(place.netns, "ip", "-o", "link").stdout
