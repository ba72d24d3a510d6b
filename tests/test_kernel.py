"""What headrace changes in the kernel, and that all of it comes back."""
from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from headrace.control import kernel, listener, tun
from headrace.control.journal import Journal
from headrace.control.kernel import Kernel
from headrace.control.settings import Concentrator, Config
from headrace.control.tun import SetupError
from pyroute2 import netns

CONFIG = Config.model_validate({
    "pools": {"clients": ["10.67.0.0/16"], "guests": ["10.68.1.0/24"]},
    "profiles": {"p": {"local-address": "10.67.0.1", "remote-address": "clients"},
                 "one": {"local-address": "10.69.0.1", "remote-address": "10.69.0.2"}},
    "secrets": {"in": {"password": "", "remote-address": "10.67.9.9"}, "out": {"password": "", "remote-address": "10.70.0.7"}}})


def test_routes_are_pools_and_fixed_addresses_outside_them():
    assert kernel.routes(CONFIG) == {IPv4Network(n) for n in ("10.67.0.0/16", "10.68.1.0/24", "10.69.0.2/32", "10.70.0.7/32")}


SIX = Config.model_validate({
    "ipv6-pool": {"links": {"prefix": "2001:db8:67::/48"}, "pd": {"prefix": ["2001:db8:100::/40"], "prefix-length": 56}},
    "profiles": {"p": {"local-ipv6-address": "2001:db8:67::1", "remote-ipv6-prefix-pool": "links"}},
    "secrets": {"in": {"password": "", "remote-ipv6-prefix": "2001:db8:67:9::/64"},
                "out": {"password": "", "remote-ipv6-prefix": "2001:db8:200:9::/64",
                        "delegated-ipv6-prefix": "2001:db8:300::/56"}}})


def test_ipv6_routes_are_pools_and_fixed_prefixes_outside_them():
    assert kernel.routes6(SIX) == {IPv6Network(n) for n in ("2001:db8:67::/48", "2001:db8:100::/40", "2001:db8:200:9::/64",
                                                            "2001:db8:300::/56")}
    assert kernel.routes(SIX) == set() == kernel.routes6(CONFIG)


# -- the journal -------------------------------------------------------------------------------

def test_journal_gives_the_last_change_first(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert journal.changes() == []
    journal.record(what="a")
    journal.record(what="b")
    assert Journal(tmp_path / "journal").changes() == [{"what": "b"}, {"what": "a"}]
    journal.forget()
    journal.forget()
    assert journal.changes() == []


@pytest.mark.parametrize("cut", range(1, 14))
def test_journal_cut_short(tmp_path, cut):
    journal = Journal(tmp_path / "journal")
    journal.record(what="a")
    journal.record(what="b")
    text = journal.path.read_text()
    journal.path.write_text(text[:-cut])
    assert journal.changes() == ([{"what": "b"}, {"what": "a"}] if cut == 1 else [{"what": "a"}])


def test_journal_of_another_boot_is_history(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.record(what="a")
    journal.path.write_text(journal.path.read_text().replace('"netns": ', '"netns": 9'))
    assert journal.changes() == []


# -- in a namespace ----------------------------------------------------------------------------

@pytest.fixture
def space() -> Iterator[str]:
    """A network namespace with a veth pair; this thread is in it."""
    name = f"hrk{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    netns.pushns(name)
    subprocess.run("ip link set lo up; ip link add up0 type veth peer name up1; ip addr add 10.1.0.1/24 dev up0; ip link set up0 up",
                   shell=True, check=True)
    yield name
    netns.popns()
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def hr0(space, tmp_path) -> Iterator[tuple[Kernel, int]]:
    """A kernel that has adopted hr0, and the TUN's descriptor."""
    queues = tun.open_queues("hr0", 1)
    made = Kernel(tmp_path)
    made.adopt("hr0")
    yield made, queues[0]
    os.close(queues[0])


def sysctl(path: str, value: str | None = None) -> str:
    file = kernel.SYSCTL / "net" / path
    if value is not None:
        file.write_text(value)
    return file.read_text().strip()


def everything() -> dict[str, str]:
    names = ("forwarding", "accept_redirects", "send_redirects", "accept_ra", "rp_filter")
    return {str(p): p.read_text() for f in ("ipv4", "ipv6") for name in names
            for p in (kernel.SYSCTL / "net" / f / "conf").glob(f"*/{name}") if p.parent.name != "hr0"}


@pytest.mark.root
@pytest.mark.parametrize("own", [{},
                                 {"ipv4/conf/all/accept_redirects": "0", "ipv4/conf/up0/forwarding": "1", "ipv6/conf/up0/forwarding": "1"},
                                 {"ipv6/conf/up0/accept_ra": "0", "ipv4/conf/all/send_redirects": "0"}, {"ipv4/ip_forward": "1"}])
def test_settings_come_back(hr0, own):
    for path, value in own.items():
        sysctl(path, value)
    before = everything()
    made, _ = hr0
    made.forward()
    assert sysctl("ipv4/ip_forward") == sysctl("ipv6/conf/all/forwarding") == sysctl("ipv4/conf/up1/forwarding") == "1"
    assert sysctl("ipv4/conf/all/send_redirects") == "0"
    assert sysctl("ipv6/conf/up0/accept_ra") == ("0" if own.get("ipv6/conf/up0/accept_ra") == "0" else "2")
    Kernel(made.journal.path.parent).undo()
    assert everything() == before and not made.journal.path.exists()


@pytest.mark.root
def test_what_somebody_changed_since_is_theirs(hr0):
    made, _ = hr0
    sysctl("ipv4/conf/up0/rp_filter", "0")
    made.set("ipv4/conf/up0/rp_filter", "1")
    sysctl("ipv4/conf/up0/rp_filter", "2")
    assert made.undo() == [] and sysctl("ipv4/conf/up0/rp_filter") == "2"


@pytest.mark.root
def test_a_setting_that_is_right_already_is_not_touched(hr0):
    made, _ = hr0
    made.set("ipv4/conf/up0/send_redirects", sysctl("ipv4/conf/up0/send_redirects"))
    assert not made.journal.path.exists()


@pytest.mark.root
def test_a_setting_that_does_not_exist(hr0, caplog):
    made, _ = hr0
    made.set("ipv4/conf/nothing/forwarding", "1")
    assert "there is no net.ipv4.conf.nothing.forwarding on this machine" in caplog.text and not made.journal.path.exists()


@pytest.mark.root
def test_apply_follows_the_configuration(hr0):
    made, _ = hr0

    def seen() -> set[str]:
        text = subprocess.run("ip -o -4 addr show hr0; ip route show dev hr0", shell=True, capture_output=True, text=True).stdout
        return {word for word in text.split() if word[:2].isdigit() and "." in word}
    made.apply(CONFIG)
    assert seen() == {"10.67.0.1/32", "10.69.0.1/32", "10.67.0.0/16", "10.68.1.0/24", "10.69.0.2", "10.70.0.7"}
    made.apply(Config.model_validate({"pools": {"more": ["10.80.0.0/20"]}, "profiles": {"p": {"local-address": "10.80.0.1"}}}))
    assert seen() == {"10.80.0.1/32", "10.80.0.0/20"}


@pytest.mark.root
def test_apply_of_ipv6(hr0):
    """Our address and the pools; no address of the kernel's making, and so no redirects and no solicitations."""
    made, _ = hr0

    def seen() -> set[str]:
        text = subprocess.run("ip -o -6 addr show hr0; ip -6 route show dev hr0", shell=True, capture_output=True, text=True).stdout
        return {word for word in text.split() if word.count(":") > 1}
    made.apply(CONFIG)
    assert sysctl("ipv6/conf/hr0/disable_ipv6") == "1", "who has no IPv6 hears nothing of it from the kernel"
    made.apply(SIX)
    assert seen() == {"2001:db8:67::1", "2001:db8:67::1/128", "2001:db8:67::/48", "2001:db8:100::/40", "2001:db8:200:9::/64",
                      "2001:db8:300::/56"}
    assert sysctl("ipv6/conf/hr0/forwarding") == "1" and sysctl("ipv6/conf/hr0/accept_ra") == "0"
    made.apply(CONFIG)
    assert seen() == set()


@pytest.mark.root
def test_a_route_that_another_interface_has(hr0):
    subprocess.run("ip route add 10.67.0.0/16 dev up0 proto static", shell=True, check=True)
    with pytest.raises(SetupError, match=r"hr0 cannot have the route 10.67.0.0/16: another interface has it"):
        hr0[0].apply(CONFIG)


def udp(source: str, target: str, payload: bytes) -> bytes:
    """An IPv4 UDP datagram to port 9000 behind an empty virtio_net_hdr; UDP without a checksum."""
    ends = IPv4Address(source).packed + IPv4Address(target).packed
    head = struct.pack("!BBHHHBBH8s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0, ends)
    words = sum(struct.unpack("!10H", head))
    words = (words & 0xFFFF) + (words >> 16)
    head = head[:10] + struct.pack("!H", ~words & 0xFFFF) + head[12:]
    return bytes(tun.HEADER) + head + struct.pack("!HHHH", 9000, 9000, 8 + len(payload), 0) + payload


@pytest.mark.root
@pytest.mark.parametrize("masquerade, source", [(True, "10.1.0.1"), (False, "10.67.0.5")])
def test_masquerade_changes_the_source_of_what_leaves(hr0, space, masquerade, source):
    far = f"{space}-far"
    subprocess.run(f"ip netns add {far} && ip link set up1 netns {far}"
                   f" && ip -n {far} addr add 10.1.0.2/24 dev up1 "
                   f"&& ip -n {far} link set up1 up && ip -n {far} route add 10.67.0.0/16 via 10.1.0.1", shell=True, check=True)
    try:
        made, fd = hr0
        made.apply(CONFIG)
        made.forward()
        if masquerade:
            made.masquerade("up0", CONFIG)
        netns.pushns(far)
        try:
            sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            netns.popns()
        with sink:
            sink.bind(("10.1.0.2", 9000))
            sink.settimeout(10)
            os.write(fd, udp("10.67.0.5", "10.1.0.2", b"out"))
            data, (host, _) = sink.recvfrom(100)
        assert (data, host) == (b"out", source)
        assert ("nftables table ip headrace-hr0: away" in made.undo()) == masquerade
    finally:
        subprocess.run(["ip", "netns", "del", far], check=True)


@pytest.mark.root
def test_masquerade_behind_nothing(hr0):
    with pytest.raises(SetupError, match="masquerade is eth77, which is not an interface of this machine"):
        hr0[0].masquerade("eth77", CONFIG)


@pytest.mark.root
def test_the_interface_goes_with_its_last_queue(space):
    queues = tun.open_queues("hr7", 3)
    assert tun.exists("hr7")
    for fd in queues:
        os.close(fd)
    assert not tun.exists("hr7")


@pytest.mark.root
def test_listener_options(space):
    four = listener.open_listener("0.0.0.0:1701", 2, offload=True)
    six = listener.open_listener("[::]:1701", 1, offload=False)
    with contextlib.ExitStack() as stack:
        for sock in four + six:
            stack.enter_context(sock)
        for sock, tells in zip(four, (1, 1, 0, 0), strict=True):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) and sock.getsockopt(socket.IPPROTO_UDP, listener.UDP_GRO)
            assert sock.getsockopt(socket.IPPROTO_IP, listener.IP_PKTINFO) == tells
            assert sock.getsockopt(socket.IPPROTO_IP, listener.IP_RECVTOS) == tells
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= listener.BUFFER and not sock.getblocking()
        for sock, tells in zip(six, (1, 0), strict=True):
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) and not sock.getsockopt(socket.IPPROTO_UDP, listener.UDP_GRO)
            assert tells == sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
            assert tells == sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS)


@pytest.mark.parametrize("error, sentence", [
    (FileNotFoundError(2, "No such file"), r"there is no /dev/net/tun: load the kernel's tun module"),
    (PermissionError(13, "Permission denied"), "must be started by root, or with CAP_NET_ADMIN"),
    (OSError(19, "No such device"), r"/dev/net/tun cannot be opened \(No such device\)")])
def test_no_tun(monkeypatch, error, sentence):
    def refuse(path, flags):
        raise error
    monkeypatch.setattr(tun.os, "open", refuse)
    with pytest.raises(SetupError, match=sentence):
        tun.open_queues("hr77", 1)


@pytest.mark.parametrize("wanted, had, effect", [("auto", 0x67, "uso"), ("auto", 0x07, "tso"), ("auto", 0x01, "csum"),
                                                 ("auto", 0, "none"),
                                                 ("uso", 0x07, "tso"), ("tso", 0x67, "tso"), ("csum", 0x67, "csum"),
                                                 ("none", 0x67, "none")])
def test_offloads_fall(monkeypatch, wanted, had, effect):
    def ioctl(fd, request, flags):
        if flags & ~had:
            raise OSError(22, "Invalid argument")
    monkeypatch.setattr(tun.fcntl, "ioctl", ioctl)
    assert tun.set_offload(0, wanted) == effect


def test_workers(monkeypatch):
    monkeypatch.setenv("HEADRACE_FORWARDER_CPUS", "0,1,5")
    assert tun.workers(Concentrator()) == 3
    assert tun.workers(Concentrator(workers=2)) == 2
    monkeypatch.delenv("HEADRACE_FORWARDER_CPUS")
    assert tun.workers(Concentrator()) == len(os.sched_getaffinity(0))
