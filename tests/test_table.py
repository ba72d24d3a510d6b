"""The tables file: publishing, retiring, configuration copies, prefixes, quiescence."""
import ipaddress
import os
import stat

import pytest
from headrace.fastpath import table
from headrace.fastpath.packet import Kind
from headrace.fastpath.table import ConfigFlag, State
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = (0, bytes(10) + b"\xff\xff\x0a\x00\x00\x01", 1701, bytes(10) + b"\xff\xff\x0a\x00\x00\x02", 40000)


def mapped(address):
    return bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(address).packed


@pytest.fixture
def tables(tmp_path):
    return make(tmp_path / "tables", 1000)


def make(path, max_sessions, workers=2):
    table.create(path, max_sessions=max_sessions, workers=workers)
    fd = os.open(path, os.O_RDWR)
    try:
        return table.Tables(fd)
    finally:
        os.close(fd)


def test_file_is_private_and_sparse(tmp_path):
    make(tmp_path / "t", 200_000)
    s = os.stat(tmp_path / "t")
    assert stat.S_IMODE(s.st_mode) == 0o600
    assert s.st_blocks * 512 < 1 << 20 < s.st_size


@pytest.mark.parametrize("sessions, banks", [(1, 1), (52427, 1), (52428, 2), (65536, 2), (200_000, 4), (1_000_000, 32)])
def test_banks_leave_a_quarter_free(sessions, banks):
    assert table.banks_for(sessions) == banks
    assert banks * 65534 >= 1.25 * sessions


def test_another_layout_is_refused(tmp_path):
    make(tmp_path / "t", 10)
    with open(tmp_path / "t", "r+b") as f:
        f.seek(8)
        f.write(b"\xff")
        f.flush()
        with pytest.raises(table.LayoutError, match="layout 255"):
            table.Tables(f.fileno())
        f.truncate(10)
        with pytest.raises(table.LayoutError, match="cut off"):
            table.Tables(f.fileno())


def test_publish_configure_retire(tables):
    slot, generation = tables.publish(Kind.KIND_L2TP, 7, 9, 1, PATH, mtu=1450, template=b"abc", address=mapped("10.67.0.2"))
    assert slot == tables.slot(7, 9) and tables.state(slot) == State.OPENING
    row = tables.sessions()[slot]
    assert (row["tunnel"], row["session"], row["owner"], row["peer_port"], row["kind"]) == (7, 9, 1, 40000, Kind.KIND_L2TP)
    with pytest.raises(ValueError, match="in use"):
        tables.publish(Kind.KIND_L2TP, 7, 9, 1, PATH)
    tables.configure(slot, mtu=1400)
    tables.set_state(slot, State.OPEN)
    tables.retire(slot)
    assert tables.state(slot) == State.RETIRED
    assert tables.publish(Kind.KIND_L2TP, 7, 9, 1, PATH) == (slot, generation + 1)


def test_ids_of_another_bank_lead_elsewhere(tmp_path):
    tables = make(tmp_path / "t", 200_000)
    assert len({tables.slot(tunnel, 5) for tunnel in range(1, 9)}) == tables.banks == 4


def test_a_mark_passes_only_when_every_worker_moved_or_sleeps(tmp_path):
    tables = make(tmp_path / "t", 10)
    assert tables.passed(tables.epochs())        # a new file: no worker is awake
    records = tables.worker_records()
    at = os.stat(tmp_path / "t").st_size - 2 * records.itemsize
    with open(tmp_path / "t", "r+b", buffering=0) as f:
        def write(worker, epoch, asleep):
            f.seek(at + worker * records.itemsize)
            f.write(epoch.to_bytes(8, "little"))
            f.seek(at + worker * records.itemsize + records.dtype.fields["asleep"][1])
            f.write(bytes([asleep]))
        write(0, 5, 0)
        write(1, 9, 0)
        mark = tables.epochs()
        assert mark == [5, 9] and not tables.passed(mark)
        write(0, 6, 0)
        assert not tables.passed(mark)
        write(1, 9, 1)
        assert tables.passed(mark)
        slot, _ = tables.publish(Kind.KIND_L2TP, 1, 1, 0, PATH)
        tables.configure(slot, mtu=1400)
        write(1, 9, 0)
        with pytest.raises(BlockingIOError, match=f"slot {slot} "):     # a worker may still hold the other copy
            tables.configure(slot, mtu=1300)
        tables.forwarder_gone()
        tables.configure(slot, mtu=1200)


START = dict(send_bits=128, receive_bits=128, send_key=b"a send start key", receive_key=b"its other way 16",
             send_stateless=True, receive_stateless=False)
ENCRYPTED = ConfigFlag.CONFIG_ENCRYPT | ConfigFlag.CONFIG_DECRYPT


def test_keys_come_into_force_with_a_configuration_and_are_wiped_after_it(tmp_path):
    tables = make(tmp_path / "t", 10)

    def kept(key):
        return (tmp_path / "t").read_bytes().count(key)
    slot, _ = tables.publish(Kind.KIND_L2TP, 7, 9, 1, PATH)
    with pytest.raises(ValueError, match="no keys"):
        tables.configure(slot, flags=ENCRYPTED)
    tables.set_cipher(slot, **START)
    tables.configure(slot, flags=ENCRYPTED)
    assert kept(START["send_key"]) == kept(START["receive_key"]) == 1
    with pytest.raises(ValueError, match="encrypts"):
        tables.clear_cipher(slot)
    tables.set_cipher(slot, **START | {"send_key": b"next sent key 16"})
    assert kept(START["send_key"]) == 1 and kept(START["receive_key"]) == 2       # in force until the configuration changes
    tables.configure(slot, mtu=1400)
    tables.configure(slot, flags=0)
    tables.clear_cipher(slot)
    with pytest.raises(ValueError, match="no keys"):
        tables.configure(slot, flags=ENCRYPTED)
    tables.beat(1)
    assert kept(START["send_key"]) == kept(START["receive_key"]) == kept(b"next sent key 16") == 0
    tables.set_cipher(slot, **START)
    tables.configure(slot, flags=ENCRYPTED)
    tables.retire(slot)
    assert kept(START["send_key"]) == 0


def test_keys_of_a_slot_that_is_used_again_are_gone(tmp_path):
    """Also when control was another then."""
    tables = make(tmp_path / "t", 10)
    slot, _ = tables.publish(Kind.KIND_L2TP, 7, 9, 1, PATH)
    tables.set_cipher(slot, **START)
    tables.set_state(slot, State.RETIRED)
    with open(tmp_path / "t", "r+b") as f:
        again = table.Tables(f.fileno())
    again.publish(Kind.KIND_L2TP, 7, 9, 1, PATH)
    assert START["send_key"] not in (tmp_path / "t").read_bytes()


@pytest.mark.parametrize("changed, says", [({"send_bits": 64}, "64 bits"), ({"send_key": bytes(8)}, "8 octets for 128"),
                                           ({"receive_bits": 40}, "16 octets for 40")])
def test_keys_that_are_none_are_refused(tables, changed, says):
    slot, _ = tables.publish(Kind.KIND_L2TP, 7, 9, 1, PATH)
    with pytest.raises(ValueError, match=says):
        tables.set_cipher(slot, **START | changed)


def test_used_slots_are_known_without_looking_at_the_others(tables):
    assert tables.used_slots().tolist() == []
    slots = [tables.publish(Kind.KIND_L2TP, 1, session, 0, PATH)[0] for session in (1, 64, 65534)]
    tables.retire(slots[0])
    assert tables.used_slots().tolist() == slots
    assert tables.reusable(slots[0]) and not tables.reusable(slots[1])
    for session in (0, 65535):
        with pytest.raises(ValueError):
            tables.publish(Kind.KIND_L2TP, 1, session, 0, PATH)


def test_prefix_lengths_come_and_go(tables):
    """Sixteen lengths of IPv4 and 32 of IPv6 at once, any number over time."""
    for length in range(8, 60):
        tables.insert(mapped("10.0.0.0"), length, 5)
        assert tables.delete(mapped("10.0.0.0"), length, 5)
    for length in range(32):
        tables.insert(bytes(16), length, 5)
    for length in range(100, 116):
        tables.insert(mapped("10.0.0.0"), length, 5)
    for address, length in (bytes(16), 32), (mapped("10.0.0.0"), 116):
        with pytest.raises(ValueError, match="no room for more than 16 prefix lengths of IPv4 and 32 of IPv6"):
            tables.insert(address, length, 5)


def test_the_index_says_when_it_is_full(tmp_path):
    tables = make(tmp_path / "t", 10)
    with pytest.raises(ValueError, match="no room"):
        for i in range(5000):
            tables.insert(i.to_bytes(16), 128, 1)
    assert tables.lookup((3).to_bytes(16)) == 1 and tables.lookup((4999).to_bytes(16)) == 0


def test_a_search_ends_in_a_full_index(tmp_path):
    """However many prefixes and tombstones there are, one entry is unused: a worker must not search for ever."""
    tables = make(tmp_path / "t", 10)
    for i in range(129):
        tables.insert(i.to_bytes(16), 128, 1)
    for i in range(1, 129):
        tables.delete(i.to_bytes(16), 128, 1)
    with pytest.raises(ValueError, match="no room"):
        for i in range(1000, 3000):
            tables.insert(i.to_bytes(16), 128, 1)
    assert tables.lookup((5555).to_bytes(16)) == 0


def test_unknown_field_and_oversize_template(tables):
    with pytest.raises(TypeError):
        tables.publish(Kind.KIND_L2TP, 1, 1, 0, PATH, colour=3)
    with pytest.raises(ValueError, match="65"):
        tables.publish(Kind.KIND_L2TP, 1, 2, 0, PATH, template=bytes(65))


def test_longest_prefix_wins_and_delete_is_by_owner(tables):
    tables.insert(mapped("10.0.0.0"), 96 + 8, 100)
    tables.insert(mapped("10.1.0.0"), 96 + 16, 101)
    tables.insert(mapped("10.1.2.3"), 128, 102)
    assert [tables.lookup(mapped(a)) for a in ("10.9.9.9", "10.1.9.9", "10.1.2.3", "11.0.0.1")] == [100, 101, 102, 0]
    assert not tables.delete(mapped("10.1.2.3"), 128, 999)
    assert tables.delete(mapped("10.1.2.3"), 128, 102)
    assert tables.lookup(mapped("10.1.2.3")) == 101
    tables.insert(mapped("10.1.2.3"), 128, 103)
    assert tables.lookup(mapped("10.1.2.3")) == 103


def test_many_come_and_go_through_rebuilds(tables):
    """More insertions than the index has entries: tombstones are swept, nothing is lost."""
    keep = [mapped(f"10.2.{i // 250}.{i % 250}") for i in range(500)]
    for i, a in enumerate(keep):
        tables.insert(a, 128, 1000 + i)
    for i in range(9000):
        a = mapped(f"10.3.{i // 250}.{i % 250}")
        tables.insert(a, 128, 7)
        assert tables.lookup(a) == 7
        assert tables.delete(a, 128, 7)
    assert [tables.lookup(a) for a in keep] == list(range(1000, 1500))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.sampled_from([0, 1, 17, 64, 65, 104, 127, 128]), st.integers(1, 1 << 20)),
                max_size=30), st.binary(min_size=16, max_size=16))
def test_lookup_is_longest_match(tmp_path_factory, rows, address):
    """Of an address with nothing in its first half, which is where IPv4 lies, among prefixes that reach as far as IPv4 does."""
    tables = make(tmp_path_factory.mktemp("t") / "t", 100)
    best = {}
    for key, length, slot in rows:
        tables.insert(key, length, slot)
        best[int.from_bytes(key) >> (128 - length), length] = slot
    for a in [address, *(r[0] for r in rows)]:
        n = int.from_bytes(a)
        lengths = range(128, -1 if n >> 64 else 95, -1)
        want = next((best[n >> (128 - length), length] for length in lengths if (n >> (128 - length), length) in best), 0)
        assert tables.lookup(a) == want


def test_tunnel_record_round_trip(tables):
    tables.write_tunnel(77, 3, 1234, 5, 6, 4, PATH)
    assert tables.read_tunnel(77) == (3, 1234, 5, 6, 4, PATH)
    assert tables.tunnels()["state"].nonzero()[0].tolist() == [77]
    tables.write_tunnel(77, 0, 0, 0, 0, 0, PATH)
    assert not tables.tunnels()["state"].any()


def test_an_index_that_is_made_anew_lists_the_length_of_the_prefix_that_made_it_so(tmp_path):
    """Users come and go one at a time, so that nobody else has a prefix of that length when the tombstones are too many."""
    tables = make(tmp_path / "t", 10)
    for n in range(3000):
        address = mapped(f"10.67.{n >> 8}.{n & 255}")
        tables.insert(address, 128, 1)
        assert tables.lookup(address) == 1, n
        tables.delete(address, 128, 1)
        assert tables.lookup(address) == 0
