"""RC4, SHA-1, session keys and ciphers of the fast path, on every level that this CPU has, against the RFCs' examples, other
people's code, and MPPE in plain Python."""
from __future__ import annotations

from hashlib import sha1
from pathlib import Path

import headrace.fastpath._probe_mppe as probe
import pytest
from Cryptodome.Cipher import ARC4
from headrace.fastpath import cpu
from headrace.fastpath.packet import Verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import mppe as rfc

AHEAD = 3072
SHORT = {40: 8, 56: 8, 128: 16}
VECTORS: list[dict[str, bytes]] = []
for line in (Path(__file__).parent / "vectors" / "mppekeys.hex").read_text().splitlines():
    if line.startswith("#"):
        VECTORS.append({})
    elif line:
        name, digits = line.split()
        VECTORS[-1][name] = bytes.fromhex(digits)


@pytest.fixture(autouse=True, scope="module", params=cpu.available())
def level(request):
    before = cpu.name()
    cpu.use(request.param)
    yield request.param
    cpu.use(before)


def padded(message):
    """Of up to 119 octets, to two blocks."""
    return message + b"\x80" + bytes(119 - len(message)) + (8 * len(message)).to_bytes(8)


def test_a_level_that_the_cpu_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no level 'avx9'"):
        cpu.use("avx9")


@pytest.mark.parametrize("key, says", [(b"Key", "eb9f7781b734ca72a719"), (b"Wiki", "6044db6d41b7"), (b"Secret", "04d46b053ca87b59")])
def test_the_oracle_is_rc4(key, says):
    assert rfc.Rc4(key).crypt(bytes(len(says) // 2)).hex() == says


@given(st.binary(min_size=16, max_size=16), st.lists(st.integers(0, 300), max_size=12))
def test_a_key_stream_goes_on_where_it_was(key, lengths):
    stream = ARC4.new(key)
    assert probe.rc4(key, lengths) == [stream.encrypt(bytes(n)) if n else b"" for n in lengths]


@given(st.lists(st.tuples(st.binary(min_size=65, max_size=119), st.binary(min_size=65, max_size=119)), max_size=3))
def test_digests(level, pairs):
    messages = [message for pair in pairs for message in pair]
    if level == "shani":
        for digests in probe.digests([padded(m) for m in messages]):
            assert digests == [sha1(m).digest()[:16] for m in messages]


PACKET = st.tuples(st.binary(min_size=16, max_size=16), st.one_of(st.integers(1, 40), st.integers(1, 2000)), st.integers(0, 80))


@settings(max_examples=60, deadline=None)
@given(st.lists(PACKET, max_size=20), st.randoms())
def test_packets_side_by_side(level, packets, rng):
    """Lanes that end at different times, packets in two pieces."""
    packets = [(key, rng.randbytes(n), min(head, n)) for key, n, head in packets]
    assert probe.crypt(packets, level != "portable") == [ARC4.new(key).encrypt(octets) for key, octets, _ in packets]


@pytest.mark.parametrize("vectors", VECTORS, ids=["mschap1", "mschap2"])
@pytest.mark.parametrize("bits", [40, 56, 128])
def test_first_keys_are_the_rfcs(vectors, bits):
    start = vectors.get(f"start-key-{bits}") or vectors["lm-password-hash"][:8]
    key = vectors[f"session-key-{bits}"]
    assert probe.session_keys([start], bits, 1)[0][0] == key * (16 // len(key))
    assert rfc.Cipher(start, bits, stateless=True).key == key




@pytest.mark.parametrize("bits, sample", [(40, "929137917e5803d668d75898"), (128, "81848317df68846272fb5abe")])
def test_octets_are_the_rfcs(bits, sample):
    """RFC 3079 sections 3.5.1 and 3.5.3: the first session key on "test message"."""
    key = probe.session_keys([VECTORS[1][f"start-key-{bits}"]], bits, 1)[0][0]
    assert probe.crypt([(key, b"test message", 0)], cpu.name() != "portable") == [bytes.fromhex(sample)]


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=6), st.sampled_from([40, 56, 128]))
def test_each_key_follows_from_the_one_before(starts, bits):
    n = SHORT[bits]
    chains = probe.session_keys([start[:n] for start in starts], bits, 5)
    for start, chain in zip(starts, chains, strict=True):
        cipher = rfc.Cipher(start[:n], bits, stateless=True)
        want = [cipher.key]
        for _ in range(4):
            cipher.change_key()
            want.append(cipher.key)
        assert [key[:n] for key in chain] == want


# -- whole directions

SESSION = st.tuples(st.binary(min_size=16, max_size=16), st.sampled_from([40, 56, 128]), st.booleans())
PLAIN = b"\x00\x21E" + bytes(range(256)) * 8


def both(sessions):
    """Ends of the kernel's in both directions, and of the oracle's."""
    sessions = [(start[:SHORT[bits]], bits, stateless) for start, bits, stateless in sessions]
    return (probe.Side(sessions, sending=True), probe.Side(sessions, sending=False),
            [rfc.Sender(start, bits, stateless=stateless) for start, bits, stateless in sessions],
            [rfc.Receiver(start, bits, stateless=stateless) for start, bits, stateless in sessions])


@settings(max_examples=60, deadline=None)
@given(st.lists(SESSION, min_size=1, max_size=9), st.data())
def test_batches_are_what_the_oracle_says(sessions, data):
    """Packets of several sessions in any order, in batches of any size, read by the oracle and by the kernel."""
    sender, receiver, senders, receivers = both(sessions)
    for _ in range(data.draw(st.integers(1, 3))):
        packets = data.draw(st.lists(st.tuples(st.integers(0, len(sessions) - 1), st.integers(3, 200), st.integers(0, 60)), max_size=40))
        for n, length, head in packets:
            sender.encrypt(n, PLAIN[:length], min(head, length))
        frames = sender.run()
        assert frames == [senders[n].send(PLAIN[:length]) for n, length, _ in packets]
        for (n, _, _), frame in zip(packets, frames, strict=True):
            receiver.decrypt(n, frame)
        assert receiver.run() == [PLAIN[:length] for _, length, _ in packets]
        assert [receivers[n].receive(frame) for (n, _, _), frame in zip(packets, frames, strict=True)] == receiver_said(packets)


def receiver_said(packets):
    return [PLAIN[:length] for _, length, _ in packets]


@pytest.mark.parametrize("stateless", [True, False])
@pytest.mark.parametrize("bits", [40, 128])
def test_the_count_goes_round(bits, stateless):
    """Twelve bits, and more packets than that; more than one batch's jobs at once."""
    sender, receiver, senders, _ = both([(bytes(range(16)), bits, stateless)])
    for _ in range(15):
        for _ in range(300):
            sender.encrypt(0, PLAIN[:20])
        frames = sender.run()
        assert frames == [senders[0].send(PLAIN[:20]) for _ in range(300)]
        for frame in frames:
            receiver.decrypt(0, frame)
        assert set(receiver.run()) == {PLAIN[:20]}
    assert senders[0].count < 4500 - 4096 + 1 and sender.state(0)[1] == receiver.state(0)[1] == (4500 - 1) % 4096


def read(receiver, frames):
    for frame in frames:
        receiver.decrypt(0, frame)
    return receiver.run()


@given(st.lists(st.integers(0, 120), min_size=1, max_size=60, unique=True), st.integers(1, 30), st.sampled_from([40, 128]))
@settings(max_examples=40, deadline=None)
def test_stateless_packets_lost_and_out_of_order(order, batch, bits):
    """What comes in order is read, whatever is missing; what is older than something read, or comes again, is stale."""
    _, receiver, senders, _ = both([(bytes(range(16)), bits, True)])
    frames = [senders[0].send(PLAIN[:n + 3]) for n in range(121)]
    newest, want, got = -1, [], []
    for n in order:
        want.append(PLAIN[:n + 3] if n > newest else Verdict.DROP_STALE)
        newest = max(newest, n)
    for at in range(0, len(order), batch):
        got += read(receiver, [frames[n] for n in order[at:at + batch]])
    assert got == want


def test_a_gap_is_bounded_and_what_is_from_behind_costs_no_keys():
    _, receiver, senders, _ = both([(bytes(range(16)), 128, True)])
    frames = [senders[0].send(PLAIN[:40]) for _ in range(9000)]
    assert read(receiver, [frames[0], frames[AHEAD], frames[AHEAD - 1], frames[AHEAD - 1023], frames[AHEAD]]) == [
        PLAIN[:40], PLAIN[:40], *[Verdict.DROP_STALE] * 3]
    receiver.allow(10)
    now = AHEAD + 12
    assert read(receiver, [frames[now], frames[now - 1], frames[now + 1]]) == [Verdict.DROP_AHEAD, PLAIN[:40], Verdict.DROP_AHEAD]
    receiver.allow(4096 + 99)                 # large gaps leave a quarter to small ones
    assert read(receiver, [frames[now + 100], frames[now + 60]]) == [Verdict.DROP_AHEAD, PLAIN[:40]]
    receiver.allow(4096 + 101)
    assert read(receiver, [frames[now + 160]]) == [PLAIN[:40]]


@pytest.mark.parametrize("header", [0x8005, 0xA005, 0xB005, 0x0005, 0x2005])
@pytest.mark.parametrize("stateless", [True, False])
def test_what_is_not_encrypted_or_compressed_is_not_read(header, stateless):
    _, receiver, _, _ = both([(bytes(range(16)), 128, stateless)])
    before = receiver.state(0)
    assert read(receiver, [header.to_bytes(2) + PLAIN[:30]]) == [Verdict.DROP_CIPHER] and receiver.state(0) == before


ARRIVING, MISSING = st.sampled_from([1, 1, 1, 5, 250, 300, 700]), st.sampled_from([0, 0, 1, 5, 260, 520, 2000])
LOSSY = st.lists(st.tuples(ARRIVING, MISSING), min_size=1, max_size=8)


@pytest.mark.parametrize("peer", [rfc.Sender, rfc.LinuxSender])
@settings(max_examples=25, deadline=None)
@given(runs=LOSSY, anywhere=st.booleans(), delay=st.integers(0, 20))
def test_a_stateful_receiver_finds_back(peer, runs, anywhere, delay):
    """Runs of packets that arrive and of packets that are lost, flushed ones too. What is read is what was sent; what is not makes us
    ask, and some packets after that everything is read again, whatever keys went by, and whichever peer it is."""
    _, receiver, _, _ = both([(bytes(range(16)), 128, False)])
    sender = peer(bytes(range(16)), 128, stateless=False)
    sender.anywhere = anywhere
    asked = None          # so many packets ago
    got = PLAIN[:9]
    for lost in [lost for arriving, missing in [*runs, (delay + 5, 0)] for lost in [False] * arriving + [True] * missing]:
        sender.flush = sender.flush or asked == delay
        frame = sender.send(PLAIN[:9])
        asked = None if asked == delay else asked + 1 if asked is not None else None
        if not lost:
            got, = read(receiver, [frame])
            assert got in (PLAIN[:9], Verdict.DROP_COHERENCY)
            if got != PLAIN[:9] and asked is None:
                asked = 0
    assert got == PLAIN[:9]


@settings(max_examples=25, deadline=None)
@given(runs=LOSSY, linux=st.booleans())
def test_a_stateful_sender_is_understood(runs, linux):
    """By a peer that follows the RFC, and by Linux, which takes A for another key."""
    start = bytes(range(16))
    sender = probe.Side([(start, 128, False)], sending=True)
    receiver = rfc.LinuxReceiver(start, 128) if linux else rfc.Receiver(start, 128, stateless=False)
    for arriving, missing in runs:
        for _ in range(arriving):
            sender.encrypt(0, PLAIN[:30])
        for n, frame in enumerate(sender.run()):
            got = receiver.receive(frame)
            if receiver.discarding:
                assert got is None and n == 0
                sender.flush(0)
                sender.encrypt(0, PLAIN[:30])
                assert [receiver.receive(frame) for frame in sender.run()] == [PLAIN[:30]]
                break
            assert got == PLAIN[:30]
        for _ in range(missing):
            sender.encrypt(0, b"lost")
        sender.run()


def test_who_died_over_a_key_stream_begins_again():
    start = bytes(range(16))
    sides = [probe.Side([(start, 128, False)], sending=sending) for sending in (True, False)]
    sender, receiver = sides
    peer = rfc.Receiver(start, 128, stateless=False)
    for _ in range(10):
        sender.encrypt(0, PLAIN[:30])
    assert read(receiver, sender.run()) == [PLAIN[:30]] * 10
    sender.tear(0)
    sender.encrypt(0, PLAIN[:40])
    frame = sender.run()[0]
    assert frame[:2] == b"\x90\xff" and peer.receive(frame) == PLAIN[:40]
    receiver.tear(0)
    other = rfc.Sender(start, 128, stateless=False)
    for _ in range(10):
        other.send(PLAIN[:30])
    assert read(receiver, [other.send(PLAIN[:30])]) == [Verdict.DROP_COHERENCY]
    other.flush = True
    assert read(receiver, [other.send(PLAIN[:30]), other.send(PLAIN[:31])]) == [PLAIN[:30], PLAIN[:31]]


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(st.binary(min_size=3, max_size=60), max_size=30))
def test_any_frames(stateless, frames):
    """Nobody's frames: each gets octets or a verdict."""
    _, receiver, _, _ = both([(bytes(range(16)), 128, stateless)])
    for frame, got in zip(frames, read(receiver, frames), strict=True):
        assert isinstance(got, Verdict) or len(got) == len(frame) - 2


@given(st.binary(max_size=6))
def test_protocol_field(octets):
    at = 1 if octets and octets[0] & 1 else 2
    version = octets[at] >> 4 if len(octets) > at else 0
    protocol = int.from_bytes(octets[:at])
    want = (at, protocol) if (protocol, version) in ((0x21, 4), (0x57, 6)) and len(octets) > at else None
    assert probe.pull_encrypted(octets) == want


@pytest.mark.parametrize("octets, says", [("002145", (2, 0x21)), ("2145", (1, 0x21)), ("005760", (2, 0x57)), ("5760", (1, 0x57)),
                                          ("0021", None), ("2165", None), ("c02145", None), ("", None)])
def test_protocol_fields(octets, says):
    assert probe.pull_encrypted(bytes.fromhex(octets)) == says
