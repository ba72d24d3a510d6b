"""The rig itself: the guest boots, its xl2tpd dials another xl2tpd beside it, and a packet crosses.

When this fails, the other peer tests say nothing about headrace.
"""
import pytest
from peers.lab import CONCENTRATOR, LAN

pytestmark = [pytest.mark.root, pytest.mark.peer]

LNS = """set -e
mkdir -p /tmp/lns
ip netns add lns
ip link add lns type veth peer name outer netns lns
ip link set lns master br0 up
ip -n lns addr add 10.9.255.1/16 dev outer; ip -n lns link set lo up; ip -n lns link set outer up
printf 'noauth\\nnoccp\\nmtu 1400\\nmru 1400\\n' >/tmp/lns/options
cat >/tmp/lns/conf <<'E'
[global]
listen-addr = 10.9.255.1
[lns default]
ip range = 10.7.0.10-10.7.0.20
local ip = 10.7.0.1
pppoptfile = /tmp/lns/options
E
"""


@pytest.fixture
def lns(lab):
    """Debian's xl2tpd as a network server, in a namespace of the guest."""
    lab.guest.run(LNS).check()
    lab.guest.spawn("exec ip netns exec lns xl2tpd -D -c /tmp/lns/conf -C /tmp/lns/control -p /tmp/lns/pid >/tmp/lns/log 2>&1")
    yield "10.9.255.1"
    lab.guest.run("kill -9 $(ip netns pids lns); ip link del lns; ip netns del lns").check()


def test_guest_dials_its_own_lns(lns, dial):
    """By the kernel's data path and by xl2tpd's own, side by side."""
    clients = [dial("joe", lns=lns), dial("ann", lns=lns, kernel=False)]
    for client in clients:
        assert client.up().startswith("10.7.0.")
        client.ping("10.7.0.1")
    assert ["PPPoL2TP" in client.log("pppd") for client in clients] == [True, False]
    for client in clients:
        client.hang_up()
    for client in clients:
        client.down()


def test_guest_reaches_the_concentrators_namespace(lab):
    assert lab.guest.run(f"ip addr add 10.9.255.2/16 dev br0; ping -c1 -W3 {CONCENTRATOR} && ping -c1 -W3 fd09::1").rc == 0
    assert lab.on_host(lab.lan, "ping", "-c1", "-W3", "10.66.0.1").returncode == 0
    assert lab.on_host(lab.netns, "ping", "-c1", "-W3", LAN).returncode == 0
    assert lab.strangers() == {}
