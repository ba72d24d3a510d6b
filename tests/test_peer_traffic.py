"""What crosses a tunnel that a real client dialled: files whole, packets of every size, and who is told when they are too large."""
import re
import subprocess
import sys

import pytest
from peers.concentrator import LOCAL
from peers.lab import HERE, LAN

pytestmark = [pytest.mark.root, pytest.mark.peer]

OCTETS = 50 << 20
FEWER = 10 << 20         # enough where 50 MB cross another way into the same tunnel
MTU = 1400
SIZES = range(MTU - 3, MTU + 4)


def transfer(lab, client, verb, port, octets=OCTETS, to=LAN):
    """A file between the client and the network behind the concentrator; `verb` is what the client does."""
    other = {"send": "receive", "receive": "send"}[verb]
    end = subprocess.Popen(["ip", "netns", "exec", lab.lan, sys.executable, str(HERE / "transfer.py"), "listen", other, to, str(port),
                            str(octets)], stdout=subprocess.PIPE, text=True)
    try:
        assert end.stdout and end.stdout.readline() == "listening\n"
        far = client.run(f"python3 /host{HERE}/transfer.py connect {verb} {to} {port} {octets}", 150).check()
        near, _ = end.communicate(timeout=30)
    finally:
        end.kill()
        end.wait()
    assert near == far and near.startswith(f"{octets} "), (near, far)


@pytest.fixture(params=["l2tp", "pptp"])
def by(request, dial, dial_pptp):
    """How clients dial."""
    return {"l2tp": dial, "pptp": dial_pptp}[request.param]


@pytest.mark.parametrize("workers", [1, 2])
def test_file_each_way(lab, serve, by, dial, workers):
    """Up and down, unharmed; with two workers, when every packet crosses a ring between them too."""
    concentrator = serve({"workers": workers}, environment={"HEADRACE_TEST_OWNER": "other"} if workers > 1 else None, pptp={})
    client = by("joe")
    client.up()
    octets = OCTETS if by is dial and workers == 1 else FEWER       # PPTP carries 50 MB encrypted: test_peer_mppe.py
    transfer(lab, client, "send", 5001, octets)
    transfer(lab, client, "receive", 5002, octets)
    session = concentrator.session("joe")
    assert session and session["rx-bytes"] > octets and session["tx-bytes"] > octets, session
    rings = [n for name, n in numbers(concentrator.json("stats")) if re.search(r"[/_-]rings?(?![a-z])", name) and "drop" not in name]
    assert (sum(rings) > 0) == (workers > 1), concentrator.json("stats")


def numbers(tree, path=""):
    """Each number in nested objects, with the path of its key."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers(value, f"{path}/{key}")
    elif isinstance(tree, int | float):
        yield path.lower(), tree


def reassembled(run):
    """How many packets a place has put together from fragments, by its /proc/net/snmp."""
    names, values = [line.split() for line in run("grep ^Ip: /proc/net/snmp").splitlines()]
    return int(dict(zip(names, values, strict=True))["ReasmOKs"])


def pings(run, to, sizes, how, before=""):
    """One ping of each size (IP header and all), with DF ("do") or without ("dont"): what each printed."""
    printed = run(f"for size in {' '.join(map(str, sizes))}; do {before} echo @$size; ping -c1 -W3 -M {how} -s $((size - 28)) {to}; done")
    return {int(part.split()[0]): part for part in printed.split("@")[1:]}


def fits(printed, limit):
    """Each arrived that may; each other one was told that it is too large, with the MTU that would fit."""
    for size, text in printed.items():
        if size <= limit:
            assert " 1 received" in text, f"{size} octets:\n{text}"
        else:
            found = re.search(r"mtu ?= ?(\d+)", text)
            assert " 0 received" in text and found and int(found[1]) == limit, f"{size} octets:\n{text}"


def test_sizes_around_the_mtu(lab, serve, by, dial):
    """With DF, what does not fit is answered with the right MTU; without it, it arrives in fragments. Both directions."""
    serve(pptp={})
    client, narrow = by("joe", mtu=MTU), dial("ann", mtu=1300, kernel=False)
    address, narrow_address = client.up(), narrow.up()

    def inside(command):
        return client.run(command, 30).out

    def outside(command):
        return lab.on_host(lab.lan, "bash", "-c", command, check=False).stdout

    # What the sender learnt about the path hangs on its route: each ping on the host starts without.
    forget = "ip route del default; ip route add default via 10.66.0.1;"
    for run, far, to, before in (inside, outside, LAN, ""), (outside, inside, address, forget):
        count = reassembled(far)
        fits(pings(run, to, SIZES, "dont"), max(SIZES))
        assert reassembled(far) - count >= 3, f"to {to}: the large ones came in one piece"
        fits(pings(run, to, SIZES, "do", before), MTU)
    fits(pings(inside, LOCAL, SIZES, "dont"), max(SIZES))

    # From one client to another with a smaller MTU: the answer has to be headrace's own, and the sender's link did not cut.
    sizes = 1299, 1300, 1301, MTU
    fits(pings(inside, narrow_address, sizes, "dont"), MTU)
    fits(pings(inside, narrow_address, sizes, "do", "ip route flush cache;"), 1300)
