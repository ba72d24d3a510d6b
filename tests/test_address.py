"""Addresses in the form of the tables: what a link-local one is to its link, and how each is shown."""
import socket

import pytest
from headrace.control import listener
from headrace.control.address import mapped, scoped, shown
from headrace.control.tun import SetupError

LINK_LOCAL = socket.inet_pton(socket.AF_INET6, "fe80::1:2")
LO = socket.if_nametoindex("lo")


def test_a_link_local_address_is_one_on_its_link():
    first, second = scoped(LINK_LOCAL, LO), scoped(LINK_LOCAL, 0x12345678)
    assert first != second and shown(first) == "fe80::1:2%lo"
    assert shown(second) == "fe80::1:2%305419896", "an interface that is gone is its number"
    assert scoped(first, 0) == scoped(second, 0) == LINK_LOCAL and shown(LINK_LOCAL) == "fe80::1:2"


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1:2:3", "fec0::5:1", "fe7f::5:1"])
def test_no_other_address_has_a_link(text):
    address = mapped(socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text))
    assert scoped(address, LO) == address and shown(address) == text


def test_a_listener_on_one_link():
    assert listener.local_of("[fe80::1:2%lo]:1701") == scoped(LINK_LOCAL, LO)
    assert listener.local_of("192.0.2.1:1701") == mapped(socket.inet_aton("192.0.2.1"))
    with pytest.raises(SetupError, match=r"on \[fe80::1%nowhere\]:1701: there is no interface nowhere; change server.l2tp.listen"):
        listener.open_listener("[fe80::1%nowhere]:1701", 1, False)
