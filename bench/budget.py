"""What a packet may cost in each stage: the budgets of the fast path's docstrings, beside which a profile puts what it measured.

The docstrings are the place where a budget is decided; they are not in what is installed, so this table repeats them, and a test
compares. The figure is the first one, of the ordinary case; the text says what else there is.
"""
from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    file: str               # of the fast path
    function: str
    ns: float
    unit: str               # of what the figure is
    text: str               # the docstring's words


BUDGETS = {
    "receive": Budget("port.pyx", "receive", 10, "buffer", "10 ns a buffer, besides the kernel's part; 20 ns a frame of a ring"),
    "decap": Budget("decap.pyx", "decap", 8, "packet",
                    "8 ns a packet, 15 ns with 60,000 sessions in random order, 35 ns when their records are in no cache at all"),
    "order": Budget("order.pyx", "order", 2, "packet", "2 ns a packet"),
    "link": Budget("up.pyx", "link", 2, "packet", "2 ns a packet"),
    "join": Budget("join.pyx", "join", 12, "fragment", "12 ns a fragment that is whole; 60 ns any other, and its copy"),
    "decrypt": Budget("decrypt.pyx", "decrypt", 1100, "packet", "1100 ns a packet at 1400 octets of six sessions, 1200 of one"),
    "admit": Budget("up.pyx", "admit", 5, "packet", "5 ns a packet"),
    "deliver": Budget("up.pyx", "deliver", 25, "packet",
                      "25 ns a packet at 1400 octets, most of it the checksum that must be right before segments are merged; "
                      "besides the kernel's part"),
    "collect": Budget("down.pyx", "collect", 20, "read", "20 ns a read, besides the kernel's part"),
    "route": Budget("down.pyx", "route", 12, "packet",
                    "12 ns a packet, 25 ns with 60,000 sessions in random order, 50 ns when their records are in no cache at all"),
    "encap": Budget("down.pyx", "encap", 7, "packet", "7 ns a packet; a segment 8 ns and its checksum"),
    "encrypt": Budget("encrypt.pyx", "run_ciphers", 1100, "packet", "1100 ns a packet at 1400 octets of six sessions, 1200 of one"),
    "transmit": Budget("port.pyx", "transmit", 6, "datagram",
                       "with 44 datagrams a message 6 ns a datagram, besides the kernel's part"),
}
