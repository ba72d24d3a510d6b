"""Two PPP machines on a wire that tests bend: what one says the other hears, at a time that they set."""
from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

from headrace.control.auth import Accept, AuthRequest, Reject, verify
from headrace.control.mppe import IN_CLEAR, keys_of
from headrace.control.ppp import PPP, LinkSettings, LinkUp

LOCAL, REMOTE = IPv4Address("10.67.0.1"), IPv4Address("10.67.3.4")
DNS, WINS = (IPv4Address("10.67.0.53"), IPv4Address("10.67.1.53")), (IPv4Address("10.67.0.42"),)
PASSWORD = "clientPass"

SERVER = LinkSettings()
CLIENT = LinkSettings(user="User", password=PASSWORD, authentication=("mschap2", "mschap1", "chap", "pap"), use_peer_dns=True)


class Wire:
    """`server` answers its AuthRequests from PASSWORD, with `policy` for encryption, `address`, `ipv6` and `bridging` for its networks;
    `seen` keeps the events of both by role."""

    def __init__(self, server=SERVER, client=CLIENT, seed=1, policy=IN_CLEAR, address=REMOTE, ipv6=False, bridging=None, **changes):
        self.policy, self.address, self.ipv6, self.bridging = policy, address, ipv6, bridging
        self.server = PPP("server", replace(server, **changes), Random(seed))
        self.client = PPP("client", client, Random(seed + 1))
        self.seen = {"server": [], "client": []}
        self.sent = {"server": [], "client": []}    # (protocol, packet), all that was said
        self.queue = []                             # (the one to hear it, protocol, packet)
        self.now = 0.0

    def open(self):
        self.server.open(self.now)
        self.client.open(self.now)
        self.drain()
        return self

    def drain(self):
        """Collect what both want to say, and answer what the server asks."""
        for name, machine, other in (("server", self.server, self.client), ("client", self.client, self.server)):
            while events := machine.events():
                for event in events:
                    self.seen[name].append(event)
                    if isinstance(event, AuthRequest):
                        proof = verify(event, PASSWORD)
                        verdict = Reject() if proof is None else Accept(LOCAL, self.address, DNS, WINS, proof, self.policy,
                                                                               keys_of(event, PASSWORD, server=True), self.ipv6,
                                                                               bridging=self.bridging)
                        machine.authenticated(verdict, self.now, event)
            for protocol, packet in machine.outgoing():
                self.sent[name].append((protocol, packet))
                self.queue.append((other, protocol, packet))

    def deliver(self, at=0):
        machine, protocol, packet = self.queue.pop(at)
        machine.receive(protocol, packet, self.now)
        self.drain()

    def settle(self):
        """Deliver everything in order until nobody has more to say; a loop would not end."""
        for _ in range(500):
            if not self.queue:
                return self
            self.deliver()
        raise AssertionError("the two talk for ever")

    def wait(self, seconds):
        """Let time pass from one deadline to the next, delivering what is said."""
        end = self.now + seconds
        while True:
            self.settle()
            due = [d for d in (self.server.deadline(), self.client.deadline()) if d is not None and d <= end]
            if not due:
                self.now = end
                return self
            self.now = max(self.now, min(due))
            self.server.tick(self.now)
            self.client.tick(self.now)
            self.drain()

    def last(self, name, kind):
        found = [event for event in self.seen[name] if isinstance(event, kind)]
        return found[-1] if found else None

    def count(self, name, kind):
        return sum(isinstance(event, kind) for event in self.seen[name])

    def is_up(self):
        """Neither end has said anything of the link since its LinkUp."""
        said = ([event for event in events if not isinstance(event, AuthRequest)] for events in self.seen.values())
        return all(events and isinstance(events[-1], LinkUp) for events in said)
