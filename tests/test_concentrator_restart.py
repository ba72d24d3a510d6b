"""The core after a crash of its predecessor: what it finds on record, and what it says of it."""
import pytest
from headrace.control.link import LCP_PROTOCOL, push_packet
from headrace.fastpath.table import State
from rig.core import Rig


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_goodbye_after_a_crash(tmp_path):
    rig = Rig(tmp_path)
    clients = [rig.dial(), rig.dial("ann", "2")]
    half = rig.lac().call()
    rig.run(0.03)
    stale = rig.frame(clients[0], LCP_PROTOCOL, push_packet(9, 1, bytes(4)))
    slots = [rig.slot(c) for c in (*clients, half)]
    tunnels = {c.far[0] for c in (*clients, half)}
    rig.now += 5
    second = Rig(tmp_path, again=True, now=rig.now, seed=9)
    second.lacs, second.random = rig.lacs, rig.random
    for lac in second.lacs:
        lac.rig = second
    assert second.core.say_goodbye(second.now) == 3
    assert all(second.tables.state(slot) == State.RETIRED for slot in slots)
    second.core.frame(stale, second.now)        # of a slot that is nobody's now
    second.run(1)
    assert all(lac.down and "restarted" in lac.down.text for lac in second.lacs) and all(c.call_down for c in (*clients, half))
    again = second.dial()
    assert again.link and again.far[0] not in tunnels and second.slot(again) not in slots
    second.check()
    again.lac.close()
    second.run(120)
    second.check_empty()
    own = second.core.ids
    own.banks[0].unused = 0
    assert {own.take_session(1, bytes(16)) for _ in slots} <= {slot & 0xFFFF for slot in slots}


def test_hellos_that_a_worker_acknowledged(rig, tmp_path):
    """The note of a worker counts until control knows it, and never again."""
    client = rig.dial()
    tunnel_id = client.far[0]
    tunnels, tables = rig.tables.tunnels(), rig.tables
    dtype, nr = tunnels.dtype, int(tunnels[tunnel_id]["nr"])
    with open(tmp_path / "tables", "r+b", buffering=0) as f:
        base = tunnels.ctypes.data - tables.sessions().ctypes.data + 4096

        def note(field, value, size):
            f.seek(base + tunnel_id * dtype.itemsize + dtype.fields[field][1])
            f.write(value.to_bytes(size, "little"))
        note("worker_generation", int(tunnels[tunnel_id]["generation"]), 4)
        note("worker_nr", nr + 1, 2)
    rig.core.hear_workers()
    rig.collect()
    assert rig.core.l2tp.endpoint._tunnels[tunnel_id].reliable.nr == nr + 1 == tables.read_tunnel(tunnel_id)[3]
    state, peer_tunnel, ns, _, acked, path = tables.read_tunnel(tunnel_id)
    tables.write_tunnel(tunnel_id, state, peer_tunnel, ns, nr + 40_000 & 0xFFFF, acked, path)
    assert tables.read_tunnel(tunnel_id)[3] == nr + 40_000 & 0xFFFF
