"""What a worker leaves behind when it crashes: whose packets it had at hand, and these packets."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from headrace.fastpath import crash, table
from headrace.fastpath.stage import Stage
from rig.crash import DOWN, UP, preload
from rig.forwarder import udp

HERE = Path(__file__).parent
GOOD, BAD, OUTSIDE = "10.67.0.2", "10.67.0.3", "10.0.0.1"
START = """
    import socket
    import sys
    from pathlib import Path
    from headrace.fastpath import crash
    from rig.forwarder import Bench, udp
    crash.watch(sys.argv[1])
    bench = Bench(Path(sys.argv[1], "t"), workers=WORKERS, held=tuple(range(WORKERS)), reuse=("127.0.0.1", 0) if int(sys.argv[2]) else None)
    peer, kept = bench.peer, Path(sys.argv[1], "port")
    if int(sys.argv[2]):
        peer = bench.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind(("127.0.0.1", int(kept.read_text())))
    else:
        kept.write_text(str(peer.getsockname()[1]))
        for session, address in enumerate(("10.67.0.2", "10.67.0.3"), 1):
            bench.session(1, session, address, owner=WORKERS - 1)
"""


def die(folder: Path, body: str, again: bool = False, workers: int = 1) -> int:
    """Run `body` with a bench whose workers are still to be started; the signal that ended it."""
    program = textwrap.dedent(START).replace("WORKERS", str(workers)) + textwrap.dedent(body)
    path = os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run([sys.executable, "-c", program, folder, str(int(again))], cwd=folder, timeout=60,
                          env={**os.environ, **preload(folder), "PYTHONPATH": path})
    return -done.returncode


def left(folder: Path):
    fd = os.open(folder / "t", os.O_RDWR)
    tables = table.Tables(fd)
    os.close(fd)
    return tables, crash.entries(tables)


ONE_BATCH = f"""
    packets = [udp(address, "{OUTSIDE}", data) for address, data in (("{GOOD}", b"first"), ("{BAD}", {UP!r}), ("{GOOD}", b"last"))]
    for session, packet in zip((1, 2, 1), packets):
        bench.send(b"\\0\\x21" + packet, session=session, sock=peer)
    [t.start() for t in bench.threads]
    bench.threads[0].join(20)
"""


def test_the_first_crash_names_the_batch_and_the_next_one_the_session(tmp_path):
    before = time.monotonic()
    assert die(tmp_path, ONE_BATCH) == signal.SIGSEGV
    tables, [first] = left(tmp_path)
    number, when, signum, worker, stage, handles = first
    assert (number, signum, worker, stage) == (0, signal.SIGSEGV, 0, Stage.STAGE_DELIVER) and before < when < time.monotonic()
    assert handles == [(tables.slot(1, 1), 1), (tables.slot(1, 2), 1)]
    assert die(tmp_path, ONE_BATCH, again=True) == signal.SIGSEGV
    tables, [_, second] = left(tmp_path)
    assert second[5] == [(tables.slot(1, 2), 1)] and crash.count(tables) == 2


def test_the_packets_are_kept(tmp_path):
    die(tmp_path, ONE_BATCH)
    kept = tmp_path / crash.file_name(0)
    assert kept.stat().st_mode & 0o7777 == 0o600
    lines = kept.read_text().splitlines()
    datagrams = [bytes.fromhex(line) for line in lines if not line.startswith("#")]
    expected = [udp(a, OUTSIDE, data) for a, data in ((GOOD, b"first"), (BAD, UP), (GOOD, b"last"))]
    assert datagrams == [bytes.fromhex(f"00020001000{s}ff030021") + packet for s, packet in zip((1, 2, 1), expected, strict=True)]
    assert lines[0] == f"# crash 0: signal 11 in worker 0, stage {Stage.STAGE_DELIVER:d}"
    assert lines[1] == f"# slot {left(tmp_path)[0].slot(1, 1)}"


def test_toward_the_wire(tmp_path):
    """What waits to be sent is no batch any more: the datagrams name their sessions."""
    body = f"""
        bench.inner_write(udp("{OUTSIDE}", "{BAD}", {DOWN!r}))
        [t.start() for t in bench.threads]
        bench.threads[0].join(20)
    """
    assert die(tmp_path, body) == signal.SIGSEGV
    tables, [entry] = left(tmp_path)
    assert (entry[4], entry[5]) == (Stage.STAGE_TRANSMIT, [(tables.slot(1, 2), 1)])
    assert (tmp_path / "crash-0").read_text() == f"# crash 0: signal 11 in worker 0, stage {Stage.STAGE_TRANSMIT:d}\n"


def test_a_frame_for_a_bridge(tmp_path):
    body = """
        from test_bridge import ALL, BRIDGED, PLAIN_FRAME, ether
        ours, theirs = bench.pair()
        slot = bench.tables.slot(1, 2)
        bench.forwarder.plug(0, 1, slot, bench.tables.generation(slot), theirs.detach())
        bench.tables.configure(slot, bridge=ALL, tap=1)
        bench.send(BRIDGED + PLAIN_FRAME + ether(fill=b"crash-up"), session=2, sock=peer)
        [t.start() for t in bench.threads]
        bench.threads[0].join(20)
    """
    assert die(tmp_path, body) == signal.SIGSEGV
    tables, [entry] = left(tmp_path)
    assert (entry[4], entry[5]) == (Stage.STAGE_BRIDGE, [(tables.slot(1, 2), 1)])


def test_a_packet_that_another_worker_received(tmp_path):
    """The owner dies of it, not the one that it came to."""
    body = f"""
        bench.send(b"\\0\\x21" + udp("{BAD}", "{OUTSIDE}", {UP!r}), session=2)
        [t.start() for t in bench.threads]
        bench.threads[0].join(20)
    """
    seen = set()
    for again in range(8):            # the kernel chooses by the addresses who receives it
        folder = tmp_path / str(again)
        folder.mkdir()
        assert die(folder, body, workers=2) == signal.SIGSEGV
        tables, [entry] = left(folder)
        assert (entry[3], entry[5]) == (1, [(tables.slot(1, 2), 1)])
        seen.add((folder / "crash-0").read_text().splitlines()[2])
        if len(seen) == 2:
            return
    assert len(seen) == 2, "it always came to the same worker"


@pytest.mark.parametrize("name", ["SIGABRT", "SIGKILL"])
def test_a_death_that_no_worker_causes_names_nobody(tmp_path, name):
    body = f"""
        import os, signal
        [t.start() for t in bench.threads]
        os.kill(os.getpid(), signal.{name})
        bench.threads[0].join(20)
    """
    assert die(tmp_path, body) == signal.Signals[name]
    assert left(tmp_path)[1] == [] and not (tmp_path / "crash-0").exists()
