"""Congestion marks that come out of the tunnel: RFC 6040's table, cell by cell."""
import pytest
from headrace.fastpath._probe_ip import decapsulated
from reference.ip import TCP, right, tcp, wrap

NOT_ECT, ECT1, ECT0, CE = range(4)
DROP = None
# rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE (RFC 6040 figure 4)
TABLE = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, DROP),
    ECT0: (ECT0, ECT0, ECT1, CE),
    ECT1: (ECT1, ECT1, ECT1, CE),
    CE: (CE, CE, CE, CE),
}


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("inner", TABLE)
@pytest.mark.parametrize("column, outer", list(enumerate((NOT_ECT, ECT0, ECT1, CE))))
def test_table(v6, inner, column, outer):
    dscp = 46 << 2
    packet = wrap(v6, tcp(b"x"), TCP, tos=dscp | inner)
    expected = TABLE[inner][column]
    out = decapsulated(packet, 0xB8 | outer)
    assert out == (None if expected is DROP else wrap(v6, tcp(b"x"), TCP, tos=dscp | expected))
    assert out is None or right(out)
