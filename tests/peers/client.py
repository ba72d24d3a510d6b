"""One subscriber in the guest: Debian's pppd with xl2tpd, pptp or PPPoE, in a namespace of their own.

A client dials when it is made. Its namespace, its ppp interface's number, its control path and its
folder with configuration and logs are its own, so that any number of them run side by side.
"""
from __future__ import annotations

import re
import shlex

from peers.guest import Job, Result
from peers.lab import CONCENTRATOR, HERE, PASSWORD, Lab

# A process costs the guest 10 ms and more: what is asked again and again is asked by bash alone, as far as that goes. `never` is a
# pipe into which nobody writes.
WAIT = """
exec {never}<>/run/never
wait_for() { local end=$((${EPOCHREALTIME/./} + $1 * 1000)); shift
             until "$@" >/dev/null 2>&1; do [ ${EPOCHREALTIME/./} -gt $end ] && return 1; read -rt 0.05 -u $never; done; return 0; }
default_route() { while read -r name to _; do [ "$name $to" = "$1 00000000" ] && return; done </proc/net/route; return 1; }
global_address() { while read -r _ _ _ scope flags name; do
                       [ "$scope $name" = "00 $1" ] && ((!(16#$flags & 0x40))) && return        # not tentative
                   done </proc/net/if_inet6; return 1; }
gone() { while read -r name _; do [ "$name" = "$1:" ] && return 1; done </proc/net/dev; return 0; }
"""


class Subscriber:
    """What does not depend on the tunnel; subclasses dial. `says` finds lines in the logs `pppd` and `daemon`."""
    daemon: str

    def __init__(self, lab: Lab, user: str, password: str, ppp: str, mtu: int) -> None:
        self.lab, self.user = lab, user
        self.number = next(lab.numbers)
        self.name, self.interface = f"c{self.number}", f"ppp{self.number}"
        self.outer, self.folder = f"10.9.{self.number >> 8}.{self.number & 255}", f"/tmp/c{self.number}"
        self.options = (f"user {user}\npassword {password}\nnoauth\ndebug\nlogfile {self.folder}/pppd\nunit {self.number}\n"
                        f"mtu {mtu}\nmru {mtu}\nnoipdefault\ndefaultroute\nlcp-echo-interval 0\nlcp-restart 1\n"
                        f"lcp-max-terminate 1\n{ppp}\n")
        lab.guest.run(f"""set -e
mkdir -p {self.folder}; >{self.folder}/pppd; >{self.folder}/{self.daemon}; printf %s {shlex.quote(self.options)} >{self.folder}/options
ip -b - <<E
netns add {self.name}
link add {self.name} type veth peer name outer netns {self.name}
link set {self.name} master br0 up
E
ip -n {self.name} -b - <<E
addr add {self.outer}/16 dev outer
addr add fd09::1:{self.number}/64 dev outer nodad
link set lo up
link set outer up
E
""").check()

    def write(self, **files: str) -> None:
        """Files in its folder; a _ stands for a dot."""
        self.lab.guest.run("".join(f"printf %s {shlex.quote(text)} >{self.folder}/{name.replace('_', '.')}\n"
                                   for name, text in files.items())).check()

    def run(self, command: str, timeout: float = 60) -> Result:
        return self.lab.guest.run(f"ip netns exec {self.name} bash -c {shlex.quote(WAIT + command)}", timeout)

    def spawn(self, command: str) -> Job:
        return self.lab.guest.spawn(f"ip netns exec {self.name} bash -c {shlex.quote(WAIT + command)}")

    def up(self, seconds: float = 15) -> str:
        """Wait until the link has its address and pppd its last word, the default route; return the address."""
        result = self.run(f"wait_for {int(seconds * 1000)} default_route {self.interface}\n"
                          f"ip -4 -o addr show dev {self.interface}", seconds + 30)
        found = re.search(r"inet (\S+)", result.out)
        assert found, f"{self.user} has no address after {seconds} s\n{result.out}\n{self.logs()}"
        return found[1].partition("/")[0]

    def up6(self, seconds: float = 20) -> str:
        """Wait until the guest's kernel has made itself an address of what our router advertises; return it."""
        result = self.run(f"wait_for {int(seconds * 1000)} global_address {self.interface}\n"
                          f"ip -6 -o addr show dev {self.interface} scope global", seconds + 30)
        found = re.search(r"inet6 (\S+)/64", result.out)
        assert found, f"{self.user} has no IPv6 address after {seconds} s\n{result.out}\n{self.logs()}"
        return found[1]

    def down(self, seconds: float = 15) -> None:
        """Wait until the link is gone."""
        result = self.run(f"wait_for {int(seconds * 1000)} gone {self.interface}", seconds + 30)
        assert result.rc == 0, f"{self.user} is still up after {seconds} s\n{self.logs()}"

    def says(self, log: str, pattern: str, seconds: float = 15) -> str:
        """Wait for a line in a log that matches; return the first."""
        path, quoted = f"{self.folder}/{log}", shlex.quote(pattern)
        result = self.run(f"wait_for {int(seconds * 1000)} grep -E -e {quoted} {path}; grep -m1 -E -e {quoted} {path}", seconds + 30)
        assert result.rc == 0, f"{self.user}: no {pattern!r} in {log}'s log after {seconds} s\n{self.logs()}"
        return result.out

    def log(self, name: str) -> str:
        return self.lab.guest.run(f"cat {self.folder}/{name}").check()

    def logs(self) -> str:
        return self.lab.guest.run(f"tail -n +1 {self.folder}/pppd* {self.folder}/{self.daemon} | cut -c1-300").out

    def ping(self, address: str, count: int = 3) -> None:
        result = self.run(f"ping -q -c {count} -i 0.1 -W 3 {address}")
        assert result.rc == 0 and " 0% packet loss" in result.out, f"{self.user} to {address}:\n{result.out}"

    def every_size(self, address: str, largest: int, first: int = 29) -> list[int]:
        """Sizes of IP packets from `first` to `largest` octets, unfragmented, of which no echo came back unharmed."""
        return [int(size) for size in self.run(f"python3 /host{HERE}/echoes.py {address} {first} {largest}", 120).check().split()]

    def kill(self) -> None:
        """SIGKILL whatever runs here: no goodbye."""
        self.lab.guest.run(f"kill -9 $(ip netns pids {self.name})").check()

    def unplug(self) -> None:
        """Take the client's outer link down."""
        self.lab.guest.run(f"ip link set {self.name} down").check()

    def close(self) -> Job:
        """Start to end whatever runs here; the job ends when nothing is left."""
        return self.lab.guest.spawn(f"""{WAIT}
pids() {{ ip netns pids {self.name}; }}
none() {{ [ -z "$(pids)" ]; }}
{self.goodbye()}
none || {{ kill -9 $(pids); wait_for 3000 none; }}
ip -b - <<E
link del {self.name}
netns del {self.name}
E
""")

    def goodbye(self) -> str:
        """How it ends when its test has no more to ask: the server must hear of it, soon."""
        return "kill -TERM $(pids); wait_for 2000 none"


class Client(Subscriber):
    """L2TP by xl2tpd."""
    daemon = "xl2tpd"

    def __init__(self, lab: Lab, user: str, password: str = PASSWORD, *, kernel: bool = True, ppp: str = "noccp", mtu: int = 1400,
                 tunnel: str = "", secret: str = "", lns: str = CONCENTRATOR, relay: str = "", links: int = 1) -> None:
        """Dial. `ppp` are further pppd options, `tunnel` further lines of xl2tpd's lac section, `secret` the tunnel's;
        `relay` is an IPv6 address to dial in place of `lns`. `links` are as many tunnels, with a pppd each: their logs are `pppd`,
        `pppd1` and so on."""
        super().__init__(lab, user, password, ppp, mtu)
        self.write(xl2tpd_conf=(
            f"[global]\nlisten-addr = {self.outer}\nauth file = {self.folder}/secrets\n"
            f"debug tunnel = yes\ndebug state = yes\nforce userspace = {'no' if kernel else 'yes'}\n"
            + "".join(f"[lac x{number or ''}]\nlns = {'127.0.0.1' if relay else lns}\npppoptfile = {self.folder}/options{number or ''}\n"
                      f"autodial = yes\n{tunnel}\n" for number in range(links))),
            **{f"options{number}": self.options.replace("/pppd\n", f"/pppd{number}\n") for number in range(1, links)},
            secrets=f"* * {secret}\n" if secret else "")
        if relay:
            self.spawn(f"exec python3 /host{HERE}/relay.py {relay} >{self.folder}/relay 2>&1")
            self.run(f"wait_for 10000 grep ready {self.folder}/relay").check()
        self.dial()

    def dial(self) -> Job:
        """Start xl2tpd; what it and pppd say goes to the logs."""
        return self.lab.guest.spawn(
            f"exec ip netns exec {self.name} xl2tpd -D -c {self.folder}/xl2tpd.conf -C {self.folder}/control -p {self.folder}/pid "
            f">>{self.folder}/xl2tpd 2>&1")

    def told_goodbye(self, seconds: float = 15, call: bool = False) -> str:
        """Wait until xl2tpd has taken the server's StopCCN, or its CDN; return what it says about it."""
        return self.says("xl2tpd", "control_finish: Connection closed to .*" + ("serial" if call else "Local: "), seconds)

    def hang_up(self) -> None:
        """End it politely: xl2tpd sends its StopCCN."""
        self.lab.guest.run(f"kill -TERM $(cat {self.folder}/pid)").check()

    def goodbye(self) -> str:
        """xl2tpd's StopCCN is enough: nobody hears what pppd would say after it."""
        return f'read -r pid <{self.folder}/pid && kill -TERM $pid && wait_for 2000 eval "! kill -0 $pid"'


class Pptp(Subscriber):
    """PPTP by pptp, which pppd starts, and which speaks GRE itself."""
    daemon = "pptp"

    def __init__(self, lab: Lab, user: str, password: str = PASSWORD, *, ppp: str = "noccp", mtu: int = 1400,
                 server: str = CONCENTRATOR) -> None:
        """Dial. `ppp` are further pppd options."""
        super().__init__(lab, user, password, ppp, mtu)
        self.command = f"pptp {server} --nolaunchpppd"
        self.dial()

    def dial(self) -> Job:
        """Start pppd; what it says goes to its log, and what pptp does to another. pptp's two processes meet under /run, which is
        their own here, as in a machine of their own."""
        return self.spawn(f"mount -t tmpfs none /run && mkdir /run/pptp /run/lock && exec pppd file {self.folder}/options nodetach "
                          f"pty {shlex.quote(self.command)} >>{self.folder}/pptp 2>&1")

    def hang_up(self) -> None:
        """End it politely: pppd says goodbye by LCP, and then pptp by Call-Clear-Request."""
        self.run("kill -TERM $(pgrep -x pppd --ns $$ --nslist net)").check()


class Pppoe(Subscriber):
    """PPPoE by the kernel, whose session pppd's plugin finds, or by rp-pppoe's program, which speaks it itself."""
    daemon = "pppoe"

    def __init__(self, lab: Lab, user: str, password: str = PASSWORD, *, kernel: bool = True, ppp: str = "noccp", mtu: int = 1492,
                 service: str = "", vlans: tuple[tuple[str, int], ...] = (), jumbo: bool = False) -> None:
        """Dial. `ppp` are further pppd options; `vlans` are protocol and number of the guest's VLAN interfaces, the outer one first;
        `jumbo`: all links on the way take 1508 octets."""
        super().__init__(lab, user, password, ppp, mtu)
        link, commands = "outer", []
        if jumbo:
            commands += [f"ip link set {self.name} mtu 1508", f"ip -n {self.name} link set outer mtu 1508"]
        for number, (protocol, vlan) in enumerate(vlans):
            commands.append(f"ip -n {self.name} link add link {link} name v{number} type vlan proto {protocol} id {vlan}")
            link = f"v{number}"
            commands.append(f"ip -n {self.name} link set {link} up")
        if commands:
            lab.guest.run("set -e\n" + "\n".join(commands)).check()
        wanted = f"rp_pppoe_service {service} " if service else ""
        asked = f"-S {service} " if service else ""
        self.command = f"plugin rp-pppoe.so {wanted}{link}" if kernel else f"pty {shlex.quote(f'pppoe -I {link} {asked}')}"
        self.dial()

    @property
    def mac(self) -> str:
        return self.lab.guest.run(f"ip netns exec {self.name} cat /sys/class/net/outer/address").check().strip().upper()

    def dial(self) -> Job:
        """Start pppd; what it says goes to its log, and what pppoe does to another."""
        return self.spawn(f"exec pppd {self.command} file {self.folder}/options nodetach >>{self.folder}/pppoe 2>&1")

    def hang_up(self) -> None:
        """End it politely: pppd says goodbye by LCP, and PPPoE by PADT."""
        self.run("kill -TERM $(pgrep -x pppd --ns $$ --nslist net)").check()
