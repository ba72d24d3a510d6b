"""A path under an IPsec policy: the kernel refuses UDP_SEGMENT there with EIO."""
import json
import sys
from pathlib import Path

import pytest
from rig import bursts

pytestmark = [pytest.mark.root, pytest.mark.peer]

NEAR, FAR = "10.8.0.1", "10.8.0.2"
# ESP in transport mode from one end of a veth pair to the other; no cipher and no digest, since it is the kernel's refusal that is wanted.
SETUP = f"""set -e
modprobe -a esp4 crypto_null
ip netns add esp
ip link add esp0 type veth peer name esp1 netns esp
ip addr add {NEAR}/24 dev esp0; ip link set esp0 up
ip -n esp addr add {FAR}/24 dev esp1; ip -n esp link set esp1 up
for where in "" "-n esp"; do
    ip $where xfrm state add src {NEAR} dst {FAR} proto esp spi 0x100 mode transport enc cipher_null "" auth digest_null ""
done
# the host's Python, in the host's files
mountpoint -q /host/proc || mount -t proc proc /host/proc
mountpoint -q /host/dev || mount -t devtmpfs dev /host/dev
"""
POLICY = f"""set -e
policy() {{ ip "$@" src {NEAR} dst {FAR} proto udp tmpl src {NEAR} dst {FAR} proto esp mode transport; }}
policy xfrm policy add dir out
policy -n esp xfrm policy add dir in
"""
CLEAN = "ip xfrm policy flush; ip xfrm state flush; ip link del esp0; ip netns del esp; rm -rf /host/dev/shm/ipsec"


@pytest.fixture
def guest(lab):
    lab.guest.run(SETUP).check()
    yield lab.guest
    lab.guest.run(CLEAN).check()


def sent(guest, count):
    program = f"chroot /host {sys.executable} {Path(bursts.__file__).resolve()} /dev/shm/ipsec {NEAR} {FAR} {count} 9"
    return json.loads(guest.run(f"rm -rf /host/dev/shm/ipsec; mkdir -p /host/dev/shm/ipsec; {program} 9</run/netns/esp").check())


def test_a_burst_that_ipsec_refuses_leaves_singly(guest):
    """Every datagram of the burst arrives, through ESP, and the next burst is not even tried with UDP_SEGMENT."""
    [plain] = sent(guest, 1)
    assert plain == {"whole": True, "failures": 0, "sends": 1, "without": 0, "verdicts": 1}
    guest.run(POLICY).check()
    refused = {"whole": True, "failures": 1, "sends": 0, "without": 1, "verdicts": 1}
    assert sent(guest, 2) == [refused, refused]
    assert f"{2 * bursts.SEGMENTS}(packets)" in guest.run("ip -s xfrm state").check()
