"""The internet checksum: RFC 1071's example, and each implementation against plain Python."""
import pytest
from headrace.fastpath._probe_ip import checksum, ways
from hypothesis import given
from hypothesis import strategies as st
from reference.ip import total

WAYS = pytest.mark.parametrize("way", range(-1, ways()))


@WAYS
def test_example_of_rfc_1071(way):
    assert checksum(bytes.fromhex("0001f203f4f5f6f7"), way=way).hex() == "ddf2"


@WAYS
def test_every_length(way):
    octets = bytes(i * 37 % 251 for i in range(700))
    for n in range(len(octets)):
        assert checksum(octets[:n], way=way) == total(octets[:n]).to_bytes(2, "big")


@WAYS
@given(octets=st.binary(max_size=3000))
def test_any_octets(way, octets):
    assert checksum(octets, way=way) == total(octets).to_bytes(2, "big")


@WAYS
@pytest.mark.parametrize("n", [65535, 65536, 1 << 20])
def test_carries_are_not_lost(way, n):
    assert checksum(b"\xff" * n, way=way) == total(b"\xff" * n).to_bytes(2, "big")


@given(pieces=st.lists(st.binary(max_size=200).filter(lambda b: len(b) % 2 == 0)), last=st.binary(max_size=300))
def test_pieces_of_even_length_add_up(pieces, last):
    assert checksum(*pieces, last) == total(b"".join(pieces) + last).to_bytes(2, "big")
