"""PPPoE through a worker, without root: a SEQPACKET pair is the packet socket, and a tag stands in the frame."""
import struct
import time

import pytest
from headrace.control import mac, tags
from headrace.fastpath._probe_pppoe import pull_pppoe, push_frame
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.service import offer, set_delay
from headrace.fastpath.table import State
from rig.forwarder import AC, NEEDS_CSUM, TCPV4, Bench, tcp, udp

DISCOVERY, SESSION = 0x8863, 0x8864
HOST_MAC = bytes.fromhex("02005e100001")
HOST, OTHER = mac.station(HOST_MAC), mac.station(bytes.fromhex("02005e100002"))
EVERYBODY = mac.station(mac.BROADCAST)
INTERNET = {"name": b"internet", "ac_name": b"ac", "port": 2}
NETWORKS = {"untagged": (), "tag": ((mac.C_TAG, 7),), "qinq": ((mac.S_TAG, 100), (mac.C_TAG, 7)),
            "8100 twice": ((mac.C_TAG, 100), (mac.C_TAG, 7))}


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables", merge=0)
    yield b
    b.close()


def up(number):
    return udp("10.67.0.2", "10.0.0.1", struct.pack("!I", number))


def down(number, **kw):
    return udp("10.0.0.1", "10.67.0.2", struct.pack("!I", number), **kw)


def data(ppp, *, session=7, sender=HOST, to=AC, code=0, padding=0):
    vlans = mac.vlans(sender)
    return push_frame(mac.station(mac.mac(to), vlans), sender, SESSION, code, session, len(ppp)) + ppp + bytes(padding)


def discovery(name, *, sender=HOST, to=AC, session=0, **values):
    packet = tags.encode(name, session, values)
    head = push_frame(mac.station(mac.mac(to), mac.vlans(sender)), sender, DISCOVERY, 0, 0, 0)[:-6]
    return head + packet


def heard(frame):
    """(station that sent it, destination, discovery packet) of a frame from us."""
    at, fields = pull_pppoe(frame)
    return fields["station"], frame[:6], tags.decode(frame[at - 6:])


@pytest.mark.parametrize("vlans", NETWORKS.values(), ids=NETWORKS)
def test_user_data_both_ways(bench, vlans):
    peer = mac.station(HOST_MAC, vlans)
    slot, _ = bench.pppoe(peer=peer)
    bench.ethernet[0].send(data(b"\0\x21" + up(1), sender=peer, padding=20))
    assert bench.inner_read() == ((0,) * 6, up(1))
    bench.inner_write(down(2))
    frame = bench.ethernet_read()
    assert frame == data(b"\0\x21" + down(2), sender=mac.station(mac.mac(AC), vlans), to=peer)
    assert bench.tables.counters(slot)[:4] == (1, len(up(1)), 1, len(down(2)))


def test_a_priority_tag_is_no_network(bench):
    bench.pppoe(peer=HOST)
    frame = data(b"\0\x21" + up(1))
    bench.ethernet[0].send(frame[:12] + b"\x81\0\xa0\0" + frame[12:])
    assert bench.inner_read()[1] == up(1)


def test_one_mac_in_two_networks_is_two_peers(bench):
    first, second = mac.station(HOST_MAC, ((mac.C_TAG, 7),)), mac.station(HOST_MAC, ((mac.C_TAG, 8),))
    bench.pppoe(peer=first)
    bench.pppoe(peer=second, address="10.67.0.3", session=8)
    bench.ethernet[0].send(data(b"\0\x21" + up(1), sender=second))
    bench.wait_verdict("DROP_PEER")
    bench.ethernet[0].send(data(b"\0\x21" + up(2), sender=first))
    assert bench.inner_read()[1] == up(2)


def test_a_session_is_one_interfaces(bench):
    """The same station and id on another one is somebody else: nobody's data, and nobody's goodbye."""
    slot, _ = bench.pppoe(peer=HOST, port=3)
    assert slot == bench.tables.slot(bench.tables.peer_hash(mac.network(HOST, 2)), 7), "only the record tells them apart"
    bench.ethernet[0].send(data(b"\0\x21" + up(1)))
    bench.wait_verdict("DROP_PEER")
    bench.ethernet[0].send(discovery("PADT", session=7))
    bench.wait_verdict("DROP_NO_SESSION")
    assert bench.inner_read(timeout=0.05) is None and not bench.frames(timeout=0.05)


@pytest.mark.parametrize("frame, verdict", [
    (data(b"\0\x21" + up(1), sender=OTHER), "DROP_PEER"), (data(b"\0\x21" + up(1), to=OTHER), "DROP_PEER"),
    (data(b"\0\x21" + up(1), code=9), "DROP_VERSION"), (data(b"\0\x21" + up(1))[:30], "DROP_LENGTH"), (data(b"")[:16], "DROP_SHORT"),
    (bytes(60), "DROP_VERSION"), (data(b"\0\x21" + up(1), session=0), "DROP_NO_SESSION"), (data(b"\0"), "DROP_SHORT"),
    (data(b"\0\x21" + up(1), session=0xFFFF), "DROP_NO_SESSION")])
def test_bad_input_has_a_verdict_and_disturbs_nothing(bench, frame, verdict):
    bench.pppoe(peer=HOST)
    bench.ethernet[0].send(frame)
    bench.wait_verdict(verdict)
    bench.ethernet[0].send(data(b"\0\x21" + up(9)))
    assert bench.inner_read()[1] == up(9)


def test_a_super_packet_is_cut_into_frames(bench):
    bench.pppoe(peer=HOST)
    stream = bytes(range(250)) * 12
    packet = tcp("10.0.0.1", "10.67.0.2", stream, 1000)
    bench.inner_write(packet, flags=NEEDS_CSUM, gso=TCPV4, size=1000, start=20, offset=16)
    frames = [bench.ethernet_read() for _ in range(3)]
    for n, frame in enumerate(frames):
        at, fields = pull_pppoe(frame)
        assert fields["length"] == len(frame) and frame[at:at + 2] == b"\0\x21"
        assert frame[at + 2:] == tcp("10.0.0.1", "10.67.0.2", stream[n * 1000:n * 1000 + 1000], 1000 + n * 1000, ident=1 + n)


def test_negotiation_is_punted_and_answered_without_address_and_control(bench):
    slot, generation = bench.pppoe(peer=HOST, state=State.OPENING)
    bench.ethernet[0].send(data(b"\xc0\x21\1\1\0\4"))
    kind, _, where, _, protocol, path, payload = bench.frames()[0]
    assert (kind, where, protocol, path, payload) == (PuntKind.PUNT_PPP, slot, 0xC021, None, b"\1\1\0\4")
    bench.channels[0].send([(PuntKind.PUNT_PPP, slot, generation, 0xC021, None, b"\2\1\0\4")])
    assert bench.ethernet_read() == data(b"\xc0\x21\2\1\0\4", sender=AC, to=HOST)


def test_echo_is_answered_by_the_worker(bench):
    bench.pppoe(peer=HOST)
    bench.ethernet[0].send(data(b"\xc0\x21\x09\5\0\x08\x22\x22\x22\x22"))
    assert bench.ethernet_read() == data(b"\xc0\x21\x0a\5\0\x08\x11\x11\x11\x11", sender=AC, to=HOST)


def test_who_sends_data_of_no_session_is_told_so_at_a_bounded_rate(bench):
    for _ in range(500):
        bench.ethernet[0].send(data(b"\0\x21" + up(1), session=99, sender=OTHER))
    bench.wait_verdict("DROP_NO_SESSION", 500)
    _, to, packet = heard(bench.ethernet_read())
    assert (packet.name, packet.session_id, to) == ("PADT", 99, mac.mac(OTHER))
    told = 1
    while bench.ethernet_read(timeout=0.1):
        told += 1
    assert told <= 300


def test_discovery(bench):
    offer(bench.tables, [INTERNET])
    bench.ethernet[0].send(discovery("PADI", to=EVERYBODY, service_name=b"", host_uniq=b"\1\2"))
    sender, to, pado = heard(bench.ethernet_read())
    assert (sender, to, pado.name) == (AC, HOST_MAC, "PADO") and pado.values["host_uniq"] == b"\1\2"
    assert pado.service_names == [b"", b"internet"] and bench.wait_verdict("OFFERED") == 1
    asked = {name: pado.values[name] for name in ("service_name", "ac_cookie", "host_uniq")}
    bench.ethernet[0].send(discovery("PADR", **asked))
    kind, worker, _, _, _, path, payload = bench.frames()[0]
    assert (kind, worker, path) == (PuntKind.PUNT_PPPOE, 0, (2, AC, 0, HOST, 0)) and tags.decode(payload).values == asked
    bench.channels[0].send([(PuntKind.PUNT_PPPOE, 0, 0, 0, path, tags.encode("PADS", 7, asked))])
    _, to, pads = heard(bench.ethernet_read())
    assert (to, pads.name, pads.session_id, pads.values) == (HOST_MAC, "PADS", 7, asked)
    bench.pppoe(peer=HOST)
    bench.ethernet[0].send(discovery("PADT", session=7, sender=OTHER))
    bench.wait_verdict("DROP_NO_SESSION")
    bench.ethernet[0].send(discovery("PADT", session=7))
    assert tags.decode(bench.frames()[0][6]).name == "PADT"


@pytest.mark.parametrize("frame, verdict", [
    (discovery("PADI", to=EVERYBODY, service_name=b"tv"), "DROP_SERVICE"), (discovery("PADR", service_name=b""), "DROP_COOKIE"),
    (discovery("PADR", service_name=b"", ac_cookie=bytes(9)), "DROP_COOKIE"),
    (discovery("PADR", to=EVERYBODY, service_name=b""), "DROP_PEER"),
    (discovery("PADI", to=OTHER, service_name=b""), "DROP_PEER"), (discovery("PADI", sender=EVERYBODY, service_name=b""), "DROP_PEER"),
    (discovery("PADI", to=EVERYBODY), "DROP_DISCOVERY"), (discovery("PADI", to=EVERYBODY, session=1, service_name=b""), "DROP_DISCOVERY"),
    (discovery("PADO", service_name=b""), "DROP_DISCOVERY"), (discovery("PADS", session=3, service_name=b""), "DROP_DISCOVERY"),
    (discovery("PADT"), "DROP_DISCOVERY"), (discovery("PADI", to=EVERYBODY, service_name=b"", host_uniq=bytes(1490)), "DROP_DISCOVERY")])
def test_bad_discovery_has_a_verdict_and_no_answer(bench, frame, verdict):
    offer(bench.tables, [INTERNET])
    bench.ethernet[0].send(frame)
    bench.wait_verdict(verdict)
    assert bench.ethernet_read(timeout=0.05) is None and not bench.frames(timeout=0.05)


def padi(number=0, sender=None):
    return discovery("PADI", to=EVERYBODY, sender=sender or mac.station(b"\x02\0\0" + number.to_bytes(3)), service_name=b"")


def test_one_station_asks_so_often_and_no_more(bench):
    offer(bench.tables, [INTERNET])
    for _ in range(50):
        bench.ethernet[0].send(padi(sender=HOST))
    bench.wait_verdict("DROP_PADI", 35)
    assert 8 <= bench.verdicts()["OFFERED"] <= 15
    before = bench.verdicts()["OFFERED"]
    bench.ethernet[0].send(padi(12345))
    assert bench.wait_verdict("OFFERED", before + 1)


def test_one_station_takes_so_often_and_no_more(bench):
    """A cookie is good for a minute: who sends it again and again shall not take what control hears of all others."""
    offer(bench.tables, [INTERNET])
    cookies = []
    for sender in (HOST, OTHER):
        bench.ethernet[0].send(padi(sender=sender))
        cookies.append(heard(bench.ethernet_read())[2].values["ac_cookie"])
    for n in range(100):
        bench.ethernet[0].send(discovery("PADR", service_name=b"%d" % n, ac_cookie=cookies[0]))
    bench.wait_verdict("DROP_RATE", 80)
    bench.ethernet[0].send(discovery("PADR", sender=OTHER, service_name=b"", ac_cookie=cookies[1]))
    heard_of = []
    for _ in range(30):
        if OTHER not in heard_of:
            heard_of += [frame[5][3] for frame in bench.frames()]
    assert 8 <= heard_of.count(HOST) <= 20 and heard_of.count(OTHER) == 1


def test_what_a_pads_could_not_echo_is_not_put_to_control(bench):
    """Where frames may be long; control's answer has all that the PADR has, and an error or our name."""
    offer(bench.tables, [INTERNET])
    bench.ethernet[0].send(padi(sender=HOST))
    cookie = heard(bench.ethernet_read())[2].values["ac_cookie"]
    for length, heard_of in ((2000, 0), (1484, 0), (1483, 1)):
        bench.ethernet[0].send(discovery("PADR", service_name=bytes(length), ac_cookie=cookie))
        assert len(bench.frames(timeout=0.05 if not heard_of else 5.0)) == heard_of
    assert bench.wait_verdict("DROP_LENGTH", 2) == 2


@pytest.mark.parametrize("port, everywhere", [(50, 20000), (10000, 50)], ids=["of an interface", "of all"])
def test_all_together_are_answered_so_often_and_no_more(bench, port, everywhere):
    """Whoever they say they are. What two seconds allow may come at once."""
    offer(bench.tables, [INTERNET], {2: (mac.mac(AC), port, 2)}, everywhere)
    for number in range(400):
        bench.ethernet[0].send(padi(number))
    bench.wait_verdict("DROP_PADI", 200)
    assert 100 <= bench.verdicts()["OFFERED"] <= 200


def test_no_more_answers_wait_than_there_are_places(bench):
    """Those of a minute's delay: not one leaves meanwhile."""
    offer(bench.tables, [INTERNET | {"delay": 60000}])
    for number in range(1500):
        bench.ethernet[0].send(padi(number))
    bench.wait_verdict("DROP_PADI", 1500 - 1024)
    assert bench.verdicts() == {"OFFERED": 1024, "DROP_PADI": 1500 - 1024} and bench.ethernet_read(timeout=0) is None


def test_delayed_answers_come_late_and_in_order(bench):
    offer(bench.tables, [INTERNET | {"delay": 80}])
    since = time.monotonic()
    for number in range(1500):
        bench.ethernet[0].send(padi(number))
    bench.wait_verdict("OFFERED", 1)
    answered = [heard(bench.ethernet_read())[1]]
    assert time.monotonic() - since >= 0.08
    while frame := bench.ethernet_read(timeout=0.3):
        answered.append(heard(frame)[1])
    verdicts = bench.verdicts()
    assert verdicts["OFFERED"] + verdicts.get("DROP_PADI", 0) == 1500 and len(answered) == verdicts["OFFERED"]
    assert answered == sorted(answered) and verdicts["OFFERED"] >= 1024


def test_delays_that_differ(bench):
    offer(bench.tables, [INTERNET | {"delay": 300}, INTERNET | {"name": b"tv", "delay": 50}])
    for number in range(6):
        name = b"internet" if number % 2 == 0 else b"tv"
        bench.ethernet[0].send(discovery("PADI", to=EVERYBODY, sender=mac.station(b"\x02\0\0\0\0" + bytes((number,))), service_name=name))
    order = [heard(bench.ethernet_read())[1][5] for _ in range(6)]
    assert order == [1, 3, 5, 0, 2, 4]


def test_who_is_full_does_not_answer(bench):
    offer(bench.tables, [INTERNET])
    set_delay(bench.tables, 0, 65535)
    bench.ethernet[0].send(padi())
    bench.wait_verdict("DROP_PADI")
    set_delay(bench.tables, 0, 0)
    bench.ethernet[0].send(padi())
    assert heard(bench.ethernet_read())[2].name == "PADO"


def test_a_changed_offer_keeps_its_cookies(bench):
    offer(bench.tables, [INTERNET])
    bench.ethernet[0].send(padi(sender=HOST))
    cookie = heard(bench.ethernet_read())[2].values["ac_cookie"]
    for name in (b"tv", b"radio", b"internet"):
        offer(bench.tables, [INTERNET | {"name": name}])
    bench.ethernet[0].send(discovery("PADR", service_name=b"internet", ac_cookie=cookie))
    assert bench.frames()[0][0] == PuntKind.PUNT_PPPOE


@pytest.mark.parametrize("receiver", [0, 1])
def test_two_workers(tmp_path, receiver):
    bench = Bench(tmp_path / "tables", workers=2, merge=0)
    try:
        bench.pppoe(peer=HOST, owner=1)
        for number in range(100):
            bench.ethernet[receiver].send(data(b"\0\x21" + up(number)))
        for number in range(100):
            assert bench.inner_read()[1] == up(number)
        bench.inner_write(down(1), worker=1 - receiver)
        assert bench.ethernet_read(1) == data(b"\0\x21" + down(1), sender=AC, to=HOST)
        assert bench.wait_verdict("HANDED", 1) == (1 if receiver else 100)
    finally:
        bench.close()
