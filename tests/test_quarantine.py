"""A session in whose packets the forwarder dies: control's part on records of crashes, and all of it with real ones."""
from __future__ import annotations

import json
import logging
import os
import signal
from types import SimpleNamespace

import pytest
from headrace.control import quarantine
from headrace.fastpath import crash
from headrace.fastpath.stage import Stage
from ours.packets import answered, ping
from ours.place import LAN
from peers.concentrator import LOCAL
from peers.lab import until
from rig.core import Rig
from rig.crash import UP, preload
from rig.forwarder import udp


class Crashes:
    """What crash.pyx would find in the tables file."""

    def __init__(self, monkeypatch):
        self.log = []
        monkeypatch.setattr(quarantine, "crash", SimpleNamespace(
            count=lambda tables: len(self.log), entries=lambda tables: self.log[-8:], file_name=crash.file_name))

    def __call__(self, when, *sessions, signum=signal.SIGSEGV, stage=Stage.STAGE_ADMIT):
        self.log.append((len(self.log), when, signum, 0, stage, [(s.slot, s.generation) for s in sessions]))


@pytest.fixture
def crashes(monkeypatch):
    return Crashes(monkeypatch)


@pytest.fixture
def rig(tmp_path, crashes):
    rig = Rig(tmp_path)
    assert rig.dial("joe", "1").link and rig.dial("ann", "2").link
    return rig


def look(rig):
    rig.core.quarantine.look(rig.now)
    rig.run(1)
    return sorted(rig.core.sessions.names.sessions)


def test_the_session_of_three_crashes_within_ten_seconds_is_ended(rig, crashes, caplog):
    joe, ann = (rig.session(f"<l2tp-{user}>") for user in ("joe", "ann"))
    with caplog.at_level(logging.ERROR):
        crashes(100.0, joe, ann)
        assert look(rig) == ["<l2tp-ann>", "<l2tp-joe>"]
        crashes(103.0, ann)
        crashes(105.0, joe)
        assert look(rig) == ["<l2tp-ann>", "<l2tp-joe>"]
        crashes(109.9, ann)
        assert look(rig) == ["<l2tp-joe>"]
    run_dir = rig.core.config.concentrator.run_dir
    first, second, *_, last = [r.getMessage() for r in caplog.records]
    assert first == f"worker 0 crashed by SIGSEGV in admit, at hand: packets of <l2tp-joe>, <l2tp-ann>; they are in {run_dir}/crash-0"
    assert second.endswith(f"packets of <l2tp-ann>; they are in {run_dir}/crash-1")
    assert last.startswith("<l2tp-ann> is ended: the forwarder crashed 3 times within 10 s")
    [failure] = rig.core.sessions.failures.rows
    assert (failure["user"], failure["stage"], failure["code"]) == ("ann", "link", "quarantined")


def test_its_user_stays_out_for_a_while(rig, crashes):
    ann = rig.session("<l2tp-ann>")
    for when in (1.0, 2.0, 3.0):
        crashes(when, ann)
    look(rig)
    assert not rig.dial("ann", "2").link and rig.core.sessions.failures.rows[-1]["code"] == "quarantined"
    rig.run(quarantine.BARRED)
    assert rig.dial("ann", "2").link


@pytest.mark.parametrize("times", [(1.0, 2.0), (1.0, 6.0, 11.0), (1.0, 2.0, 30.0, 31.0)])
def test_fewer_crashes_or_slower_ones_end_nobody(rig, crashes, times):
    for when in times:
        crashes(when, rig.session("<l2tp-ann>"))
        assert look(rig) == ["<l2tp-ann>", "<l2tp-joe>"]


def test_who_came_into_the_slot_since_has_done_nothing(rig, crashes):
    ann = rig.session("<l2tp-ann>")
    for when in (1.0, 2.0, 3.0):
        crashes(when, SimpleNamespace(slot=ann.slot, generation=ann.generation - 1))
    crashes(3.5)
    assert look(rig) == ["<l2tp-ann>", "<l2tp-joe>"]


def test_a_record_of_nonsense_is_told_as_it_is(rig, crashes, caplog):
    crashes(1.0, SimpleNamespace(slot=1 << 31, generation=7), signum=200, stage=99)
    with caplog.at_level(logging.ERROR):
        assert look(rig) == ["<l2tp-ann>", "<l2tp-joe>"] == look(rig)
    [record] = caplog.records
    assert "crashed by 200? in 99?, at hand: packets of no session" in record.getMessage()


@pytest.mark.root
@pytest.mark.parametrize("workers", [1, 2])
def test_the_others_do_not_notice(here, lac, tmp_path, workers):
    """One user's packets crash the forwarder, as often as he sends one. He is out after the third; the other's session lives on, and he
    may not come back at once."""
    concentrator = here({"workers": workers}, environment={**preload(tmp_path), "HEADRACE_TEST_OWNER": "other" if workers > 1 else ""})
    client, other = lac(), lac(local="10.9.0.3")
    joe, ann = other.call("joe"), client.call("ann")

    def forwarder():
        return json.loads((concentrator.run_dir / "pids").read_text())["forwarder"]
    deadly = udp(ann.address, LAN, UP)
    for _ in range(3):
        before = forwarder()
        ann.ip(deadly)
        until("it died and is back", lambda before=before: forwarder() != before)
    client.until("ann's call is cleared", lambda: ann.cleared is not None, 10)
    assert [s["user"] for s in concentrator.sessions()] == ["joe"]
    [failure] = concentrator.json("sessions", "--failed")
    assert (failure["user"], failure["code"]) == ("ann", "quarantined")
    joe.ip(ping(joe.address, LOCAL, 1))
    other.until("joe goes on", lambda: answered(joe.received, 1), 5)
    assert joe.ups == 1 and not other.ended
    pid = forwarder()
    ann.ip(deadly)                  # what is still on its way does no harm
    again = client.call("ann", tunnel=ann.tunnel, wait=False)
    client.until("ann is refused", lambda: again.down is not None, 10)
    assert again.down.reason.stage == "authentication" and forwarder() == pid
    assert concentrator.json("sessions", "--failed")[-1]["code"] == "quarantined"
    kept = sorted(concentrator.run_dir.glob("crash-*"))
    assert [path.name for path in kept] == ["crash-0", "crash-1", "crash-2"] and all(UP.hex() in path.read_text() for path in kept)
    concentrator.logs(rf"crashed by SIGSEGV in deliver, at hand: packets of <l2tp-ann>; they are in {concentrator.run_dir}/crash-2")
    assert {oct(path.stat().st_mode & 0o777) for path in kept} == {"0o600"} and os.path.samefile(kept[0].parent, concentrator.run_dir)
