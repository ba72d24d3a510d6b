"""Merging for the TUN: what the kernel is told when it cuts again is what came; what does not belong together stays apart."""
import random
import struct

import pytest
from headrace.fastpath._probe_ip import coalesced, cut, headers
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.ip import ACK, CWR, ECE, FIN, PSH, RST, SYN, TCP, UDP, URG, burst, ip4, ip6, tcp, total, udp, wrap

FAMILIES = pytest.mark.parametrize("v6", [False, True])
TRANSPORTS = pytest.mark.parametrize("transport", [TCP, UDP])
NONE = dict.fromkeys(("flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset"), 0)
GSO_TCPV4, GSO_TCPV6, GSO_UDP = 1, 4, 5
NEEDS_CSUM = 1


def cut_again(writes):
    """What the kernel delivers of these writes: the packets, cut as virtio_net_hdr says."""
    packets = []
    for v, pieces in writes:
        whole = b"".join(pieces)
        if len(pieces) == 1:
            assert v == NONE
            packets.append(whole)
        else:
            check(v, whole)
            packets += cut(whole, v["gso_size"])
    return packets


def check(v, whole):
    """The header says what the packet is, and the checksum field holds the pseudo-header's sum (virtio 1.2 section 5.1.6.2)."""
    v6 = whole[0] >> 4 == 6
    at = 40 if v6 else 20
    transport = whole[6] if v6 else whole[9]
    header, field = (at + 4 * (whole[at + 12] >> 4), 16) if transport == TCP else (at + 8, 6)
    assert v == {"flags": NEEDS_CSUM, "gso_type": GSO_UDP if transport == UDP else GSO_TCPV6 if v6 else GSO_TCPV4, "hdr_len": header,
                 "gso_size": v["gso_size"], "csum_start": at, "csum_offset": field}
    assert 0 < v["gso_size"] < len(whole) - header
    n = len(whole) - at
    pseudo = whole[8:40] + struct.pack("!II", n, transport) if v6 else whole[12:20] + struct.pack("!HH", transport, n)
    assert struct.unpack_from("!H", whole, at + field)[0] == total(pseudo)
    assert struct.unpack_from("!H", whole, 4 if v6 else 2)[0] == (n if v6 else len(whole))
    assert v6 or total(whole[:20]) == 0xFFFF
    assert transport == TCP or struct.unpack_from("!H", whole, at + 4)[0] == n


def counts(packets, **how):
    return [len(pieces) for _, pieces in coalesced(packets, **how)]


@FAMILIES
@TRANSPORTS
@pytest.mark.parametrize("octets, size, expected", [
    (100, 50, [2]), (101, 50, [3]), (1400 * 44, 1400, [44]), (64 * 24, 24, [64]), (65 * 24, 24, [64, 1]), (70000, 1400, [46, 4]),
])
def test_a_burst_is_one_write(v6, transport, octets, size, expected):
    packets = burst(v6, transport, random.Random(1).randbytes(octets), size)
    assert counts(packets) == expected
    assert cut_again(coalesced(packets)) == packets


@FAMILIES
@given(sizes=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 120)), min_size=1, max_size=6), seq=st.integers(0, 2**32 - 1),
       flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | ECE, ACK | FIN | PSH]),
       options=st.sampled_from([b"", b"\x01\x01\x08\x0a12345678"]),
       udp_too=st.booleans(), room=st.integers(1, 70), seed=st.integers(0, 99))
def test_nothing_is_lost_or_reordered(v6, sizes, seq, flags, options, udp_too, room, seed):
    packets, rng, id = [], random.Random(seed), 65530
    for octets, size in sizes:
        part = burst(v6, TCP, rng.randbytes(octets), size, flags=flags, seq=seq, options=options, id=id)
        seq, id = seq + octets, id + len(part)
        packets += part
        if udp_too:
            packets += burst(v6, UDP, rng.randbytes(octets), size, id=id)
    writes = coalesced(packets, room=room)
    assert all(len(pieces) <= room for _, pieces in writes)
    assert cut_again(writes) == packets


def second(v6=False, transport=TCP, payload=b"b" * 10, seq=1010, **fields):
    """A packet that follows `first`, but for what is changed."""
    in_tcp = {k: fields.pop(k) for k in ("flags", "ack", "window", "options", "urgent", "sport", "dport") if k in fields}
    content = tcp(payload, seq=seq, **in_tcp) if transport == TCP else udp(payload, **in_tcp)
    return wrap(v6, content, transport, **{"id": 101, **fields})


def first(v6=False, transport=TCP, **fields):
    return second(v6, transport, **{"payload": b"a" * 10, "seq": 1000, "id": 100, **fields})


@FAMILIES
@TRANSPORTS
def test_followers(v6, transport):
    assert counts([first(v6, transport), second(v6, transport)]) == [2]
    assert counts([first(v6, transport), second(v6, transport, payload=b"short")]) == [2]
    assert counts([first(v6, transport), second(v6, transport, payload=b"longer than it")]) == [1, 1]
    assert counts([first(v6, transport), second(v6, transport, payload=b"")]) == [1, 1]
    assert counts([first(v6, transport), second(v6, transport, payload=b"1"), second(v6, transport, seq=1011, id=102)]) == [2, 1]
    assert counts([first(v6, transport), second(v6, not_of(transport))]) == [1, 1]
    assert counts([first(v6, transport), second(not v6, transport)]) == [1, 1]


def not_of(transport):
    return UDP if transport == TCP else TCP


ADDRESS = {False: bytes([10, 67, 0, 3]), True: bytes(15) + b"\x03"}


@FAMILIES
@TRANSPORTS
@pytest.mark.parametrize("change", [{"tos": 4}, {"tos": 2}, {"ttl": 63}, {"sport": 1}, {"dport": 1}, {"source": ADDRESS},
                                    {"destination": ADDRESS}], ids=str)
def test_another_flow(v6, transport, change):
    change = {k: value[v6] if isinstance(value, dict) else value for k, value in change.items()}
    assert counts([first(v6, transport), second(v6, transport, **change)]) == [1, 1]
    assert counts([first(v6, transport, **change), second(v6, transport, **change)]) == [2]


def test_another_flow_label():
    assert counts([ip6(tcp(b"a", seq=1), TCP, flow=1), ip6(tcp(b"b", seq=2), TCP, flow=2)]) == [1, 1]


@FAMILIES
@pytest.mark.parametrize("change", [{"seq": 1009}, {"seq": 1011}, {"seq": 1000}, {"ack": 8}, {"window": 501}, {"options": b"\x01" * 4},
                                    {"urgent": 1}, {"flags": ACK | URG}, {"flags": ACK | RST}, {"flags": ACK | SYN}, {"flags": ACK | CWR},
                                    {"flags": ACK | ECE}, {"flags": 0}], ids=str)
def test_not_the_next_of_a_tcp_flow(v6, change):
    assert counts([first(v6), second(v6, **change)]) == [1, 1]


@FAMILIES
@pytest.mark.parametrize("flags", [0, SYN, SYN | ACK, ACK | RST, ACK | FIN, ACK | PSH, ACK | URG, ACK | CWR])
def test_not_the_first_of_a_burst(v6, flags):
    assert counts([first(v6, flags=flags), second(v6, flags=flags)]) == [1, 1]


@FAMILIES
@pytest.mark.parametrize("mark", [PSH, FIN, PSH | FIN])
def test_psh_and_fin_end_a_burst(v6, mark):
    packets = [first(v6), second(v6, flags=ACK | mark), second(v6, seq=1020, id=102), second(v6, seq=1030, id=103)]
    assert counts(packets) == [2, 2]
    assert cut_again(coalesced(packets)) == packets


def test_tcp_options_must_be_the_same():
    stamps = [b"\x01\x01\x08\x0a" + struct.pack("!II", n, 9) for n in (1, 2)]
    assert counts([first(options=stamps[0]), second(options=stamps[0])]) == [2]
    assert counts([first(options=stamps[0]), second(options=stamps[1])]) == [1, 1]


@TRANSPORTS
def test_identifications(transport):
    def ids(*values, df):
        return counts([second(transport=transport, seq=1000 + 10 * k, id=id, df=df) for k, id in enumerate(values)])
    for df in (False, True):
        assert ids(7, 8, 9, df=df) == [3]
        assert ids(65535, 0, 1, df=df) == [3]
        assert ids(7, 9, 10, df=df) == [1, 2]
        assert ids(7, 8, 8, df=df) == [2, 1]
    assert ids(7, 7, 7, df=True) == [3]
    assert ids(7, 7, 8, df=True) == [2, 1]
    assert ids(7, 7, 7, df=False) == [1, 1, 1]


@TRANSPORTS
def test_ip_options_extension_headers_and_fragments_stay_alone(transport):
    content = [tcp(b"a" * 10, seq=1000 + 10 * k) if transport == TCP else udp(b"a" * 10) for k in range(2)]
    assert counts([ip4(c, transport, options=b"\x01\x01\x01\x00", id=k) for k, c in enumerate(content)]) == [1, 1]
    assert counts([ip4(c, transport, mf=True, df=False, id=k) for k, c in enumerate(content)]) == [1, 1]
    assert counts([ip6(c, transport, first=60, extensions=bytes([transport, 0]) + bytes(6)) for c in content]) == [1, 1]
    reserved = []
    for k, c in enumerate(content):
        packet = bytearray(ip4(c, transport, id=k))
        packet[6] |= 0x80
        packet[10:12] = bytes(2)
        packet[10:12] = (0xFFFF - total(bytes(packet[:20]))).to_bytes(2, "big")
        reserved.append(bytes(packet))
    assert counts(reserved) == [1, 1]


def test_a_udp_checksum_of_0_says_nothing():
    def silent(packet):
        return packet[:26] + b"\0\0" + packet[28:]
    a, b = first(transport=UDP), second(transport=UDP)
    assert counts([a, b]) == [2]
    assert counts([silent(a), b]) == counts([a, silent(b)]) == counts([silent(a), silent(b)]) == [1, 1]


def test_udp_length_must_be_that_of_the_packet():
    packet = ip4(udp(b"0123456789")[:4] + b"\0\x11" + udp(b"0123456789")[6:], UDP)
    assert counts([packet, packet]) == [1, 1]


def test_udp_is_left_alone_where_the_kernel_does_not_take_it():
    assert counts([first(transport=UDP), second(transport=UDP)], udp=False) == [1, 1]
    assert counts([first(), second()], udp=False) == [2]


@FAMILIES
@TRANSPORTS
def test_a_flipped_bit_is_never_merged(v6, transport):
    """Any bit of any of three packets: what is wrong goes out alone and as it came, for the end host to find it."""
    packets = burst(v6, transport, b"abcdefghi", 3)
    for k in range(3):
        for bit in range(len(packets[k]) * 8):
            octets = bytearray(packets[k])
            octets[bit // 8] ^= 1 << bit % 8
            bad = bytes(octets)
            whole = headers(bad)
            writes = coalesced([bad if i == k else p for i, p in enumerate(packets)])
            assert cut_again(writes) == packets[:k] + ([bad[:whole[0]]] if whole else []) + packets[k + 1:]
            assert bad not in cut_again(w for w in writes if len(w[1]) > 1)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([TCP, UDP]), st.binary(max_size=60)), max_size=6))
@settings(max_examples=300)
def test_any_octets_behind_the_ip_header(parts):
    packets = [wrap(v6, content, transport, id=k, summed=False) for k, (v6, transport, content) in enumerate(parts)]
    assert cut_again(coalesced(packets)) == packets


@FAMILIES
@TRANSPORTS
@given(changes=st.lists(st.tuples(st.integers(0, 5), st.integers(8, 70), st.integers(0, 255)), min_size=1, max_size=4))
def test_corrupted_bursts(v6, transport, changes):
    """Octets behind the lengths overwritten anywhere: only what is right is merged, and all comes out as it went in."""
    packets = [bytearray(p) for p in burst(v6, transport, bytes(range(60)), 10)]
    for k, at, value in changes:
        if at < len(packets[k]):
            packets[k][at] = value
    kept = [bytes(p) for p in packets]
    assert cut_again(coalesced(kept)) == kept
