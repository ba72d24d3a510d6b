"""Flows that take turns in a batch: each is merged, in its own order, and nothing passes what might be its own."""
import random

import pytest
from headrace.fastpath._probe_ip import coalesced
from hypothesis import given
from hypothesis import strategies as st
from reference.ip import ACK, PSH, TCP, UDP, burst, ip4, ip6, tcp, udp, wrap
from test_coalesce import cut_again

FAMILIES = pytest.mark.parametrize("v6", [False, True])
TRANSPORTS = pytest.mark.parametrize("transport", [TCP, UDP])


def address(v6, n):
    return (bytes(15) if v6 else bytes([10, 67, 0])) + bytes([n])


def flow(v6, transport, n, count, size=50):
    """So many packets of flow n."""
    return burst(v6, transport, random.Random(n).randbytes(count * size), size, source=address(v6, n))


def sizes(packets, **how):
    return [len(pieces) for _, pieces in coalesced(packets, by_flow=True, **how)]


def in_turn(*flows):
    return [p for row in zip(*flows, strict=True) for p in row]


@FAMILIES
@TRANSPORTS
@pytest.mark.parametrize("flows, each", [(2, 10), (7, 64), (64, 8), (2, 256), (200, 2)])
def test_flows_in_turn_are_a_write_each(v6, transport, flows, each):
    came = [flow(v6, transport, n, each) for n in range(flows)]
    packets = in_turn(*came)
    writes = coalesced(packets, by_flow=True)
    # Each flow is whole, but for its first packet, which was gone before another flow showed, and for two flows of one hash
    assert flows * -(-each // 64) <= len(writes) <= flows * -(-each // 64) + 3
    assert sorted(cut_again(writes)) == sorted(packets)
    assert len(coalesced(packets)) == len(packets)


def test_a_flow_by_itself_and_long_runs_stay_as_they_are():
    one, other = flow(False, UDP, 1, 40), flow(False, UDP, 2, 40)
    assert sizes(one) == [40] and sizes(one[:20] + other[:20] + one[20:]) == [20, 20, 20]


def test_a_short_run_is_found_again():
    one, other = flow(False, UDP, 1, 9), flow(False, UDP, 2, 3)
    packets = one[:3] + other[:1] + one[3:] + other[1:]
    assert sizes(packets) == [3, 3, 6]
    assert cut_again(coalesced(packets, by_flow=True)) == one[:3] + other + one[3:]


def test_nothing_passes_a_fragment():
    """It may belong to any flow between its addresses."""
    one, other = flow(False, UDP, 1, 6), flow(False, UDP, 2, 6)
    fragment = ip4(b"12345678", UDP, mf=True, source=address(False, 1))
    packets = [*in_turn(one[:3], other[:3]), fragment, *in_turn(one[3:], other[3:])]
    writes = coalesced(packets, by_flow=True)
    assert [len(pieces) for _, pieces in writes] == [1, 3, 2, 1, 3, 3]
    again = cut_again(writes)
    assert again.index(fragment) == 6 and sorted(again) == sorted(packets)


def test_a_transport_header_that_is_cut_off_is_nobodys():
    one = flow(False, UDP, 1, 4)
    stub = ip4(b"12", UDP, source=address(False, 1), summed=False)
    packets = [one[0], flow(False, UDP, 2, 1)[0], one[1], stub, one[2], one[3]]
    again = cut_again(coalesced(packets, by_flow=True))
    assert again.index(stub) == 3 and [p for p in again if p in one] == one


PACKET = st.tuples(st.integers(0, 5), st.sampled_from(["tcp", "psh", "udp", "icmp", "fragment", "stub"]), st.booleans(), st.integers(1, 3))


@given(st.lists(PACKET, max_size=150), st.booleans(), st.integers(1, 70))
def test_no_flow_is_reordered(plan, udp_too, room):
    """Whatever comes: all of it goes, each flow in its order, and fragments where they were."""
    packets, sequence = [], {}
    for k, (n, kind, v6, octets) in enumerate(plan):
        where = {"source": address(v6, n)}
        payload = k.to_bytes(2, "big") * octets
        at = sequence.get((n, v6), 1000)
        if kind in ("tcp", "psh"):
            packets.append(wrap(v6, tcp(payload, seq=at, flags=ACK | (PSH if kind == "psh" else 0)), TCP, id=k, **where))
            sequence[n, v6] = at + len(payload)
        elif kind == "udp":
            packets.append(wrap(v6, udp(payload), UDP, id=k, **where))
        elif kind == "icmp":
            packets.append(wrap(v6, payload * 3, 58 if v6 else 1, id=k, summed=False, **where))
        elif kind == "stub":
            packets.append(wrap(v6, payload[:3], UDP, id=k, summed=False, **where))
        elif v6:
            packets.append(ip6(bytes([UDP, 0, 0, 1, 0, 0, 0, k]) + payload, 44, source=address(True, n), summed=False))
        else:
            packets.append(ip4(payload * 4, UDP, id=k, mf=True, **where))
    again = cut_again(coalesced(packets, by_flow=True, udp=udp_too, room=room))
    assert sorted(again) == sorted(packets)

    def of(p):
        v6 = p[0] >> 4 == 6
        return v6, p[8:24] if v6 else p[12:16], p[6] if v6 else p[9]
    for one in {of(p) for p in packets}:
        assert [p for p in again if of(p) == one] == [p for p in packets if of(p) == one]
