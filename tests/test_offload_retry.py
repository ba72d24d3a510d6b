"""UDP_SEGMENT after it was refused: not for a minute, then again. Time namespaces are the minutes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peers.root import sh
from rig import bursts

pytestmark = pytest.mark.root

MINUTE = 60


@pytest.fixture
def netns():
    """A loopback too narrow for a segment."""
    name = f"hr{os.getpid()}-retry"
    sh("ip", "netns", "add", name)
    sh("ip", "-n", name, "link", "set", "lo", "mtu", str(bursts.SIZE), "up")
    yield name
    sh("ip", "netns", "del", name)


def test_udp_segment_is_tried_again_after_a_minute(netns, tmp_path):
    def sent(at, count=1):
        """Bursts of a worker `at` seconds from now, on the tables of the one before."""
        program = [sys.executable, Path(bursts.__file__), tmp_path, "127.0.0.1", "127.0.0.1", str(count)]
        done = subprocess.run(["ip", "netns", "exec", netns, "unshare", "--time", "--fork", "--monotonic", str(at), *program],
                              stdout=subprocess.PIPE, text=True, timeout=60, check=True)
        steps = json.loads(done.stdout)
        assert all(step["whole"] and step["verdicts"] == 1 for step in steps)
        return [(step["failures"], step["sends"], step["without"]) for step in steps]
    assert sent(0, 2) == [(1, 0, 1), (1, 0, 1)], "refused once, not tried a second time"
    assert sent(MINUTE - 20) == [(1, 0, 1)], "not yet"
    assert sent(MINUTE + 1, 2) == [(2, 0, 1), (2, 0, 1)], "tried, and refused again"
    sh("ip", "-n", netns, "link", "set", "lo", "mtu", "65536")
    assert sent(2 * MINUTE - 20) == [(2, 0, 1)], "the path is wide enough now, which nobody knows before the minute is over"
    assert sent(2 * MINUTE + 21, 2) == [(2, 1, 0), (2, 2, 0)]
