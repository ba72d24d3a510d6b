"""Two ends with several links between them and bundles above, on a wire that tests bend."""
from __future__ import annotations

from dataclasses import replace
from random import Random

from headrace.control.auth import Accept, AuthRequest, Reject, verify
from headrace.control.bundle import Bundle
from headrace.control.mppe import IN_CLEAR, keys_of
from headrace.control.ppp import PPP, LinkDown, LinkJoined, LinkReset, LinkUp
from pppwire import CLIENT, DNS, LOCAL, PASSWORD, REMOTE, SERVER, WINS

MULTILINK = {"mrru": 1600, "discriminator": b"\x01headrace"}


class Ends:
    """`dial` adds a link; the server joins it to the bundle of the same user and discriminator, as its users do, the client to the bundle
    that it is told. What a bundle says arrives at the other end's bundle; `seen` keeps the events of links and bundles."""

    def __init__(self, policy=IN_CLEAR, ipv6=False, seed=1, **changes):
        self.policy, self.ipv6 = policy, ipv6
        self.settings = replace(SERVER, **MULTILINK | changes)
        self.random = Random(seed)
        self.servers, self.clients = [], []         # links, in pairs
        self.bundles = {}                           # the server's, by user and discriminator
        self.far = {}                               # bundle -> the other end's
        self.seen = {}                              # machine -> events
        self.queue = []                             # (the one to hear it, protocol, packet)
        self.now = 0.0

    def dial(self, bundle=None, **changes):
        """The number of a new link, which is opened."""
        self.servers.append(PPP("server", self.settings, self.random))
        settings = replace(CLIENT, **{"mrru": 1600, "discriminator": b"\x03client"} | changes)
        self.clients.append(PPP("client", settings, self.random, bundle))
        for ppp in self.servers[-1], self.clients[-1]:
            ppp.open(self.now)
        self.drain()
        return len(self.clients) - 1

    def machines(self):
        found = []
        for ppp in self.servers + self.clients:
            found += [ppp, *([ppp.bundle] if ppp.bundle and ppp.bundle not in found else [])]
        return list(dict.fromkeys([*found, *self.far, *self.bundles.values()]))

    def drain(self):
        busy = True
        while busy:
            busy = False
            for machine in self.machines():
                while events := machine.events():
                    busy = True
                    for event in events:
                        self.seen.setdefault(machine, []).append(event)
                        self.event(machine, event)
                for protocol, packet in machine.outgoing():
                    busy = True
                    self.queue.append((machine, protocol, packet))

    def event(self, machine, event):
        if isinstance(event, AuthRequest):
            proof = verify(event, PASSWORD)
            if proof is None:
                return machine.authenticated(Reject(), self.now, event)
            key = event.user, machine.lcp.discriminator
            bundle = self.bundles.get(key)
            if machine.lcp.multilink and (bundle is None or bundle.ended):
                bundle = self.bundles[key] = Bundle("server", self.settings, self.random)
            accept = Accept(LOCAL, REMOTE, DNS, WINS, proof, self.policy, keys_of(event, PASSWORD, server=True), self.ipv6)
            machine.authenticated(accept, self.now, event, bundle)
        elif isinstance(event, LinkJoined):
            other = self.other(machine).bundle
            if other:
                self.far[machine.bundle], self.far[other] = other, machine.bundle
        return None

    def other(self, machine):
        if isinstance(machine, Bundle):
            return self.far.get(machine)
        mine, theirs = (self.servers, self.clients) if machine in self.servers else (self.clients, self.servers)
        return theirs[mine.index(machine)]

    def deliver(self, at=0):
        machine, protocol, packet = self.queue.pop(at)
        other = self.other(machine)
        if other is not None:
            other.receive(protocol, packet, self.now)
        self.drain()

    def settle(self):
        for _ in range(2000):
            if not self.queue:
                return self
            self.deliver()
        raise AssertionError("the two talk for ever")

    def wait(self, seconds):
        end = self.now + seconds
        while True:
            self.settle()
            due = [d for m in self.machines() if (d := m.deadline()) is not None and d <= end]
            if not due:
                self.now = end
                return self
            self.now = max(self.now, min(due))
            for machine in self.machines():
                machine.tick(self.now)
            self.drain()

    def hang_up(self, number, reason):
        """The call of a link is gone."""
        self.queue = [one for one in self.queue if one[0] not in (self.servers[number], self.clients[number])]
        for ppp in self.servers[number], self.clients[number]:
            ppp.lower_down(reason, self.now)
        self.drain()

    def last(self, machine, kind=(LinkUp, LinkReset, LinkDown, LinkJoined)):
        found = [event for event in self.seen.get(machine, ()) if isinstance(event, kind)]
        return found[-1] if found else None

    def is_up(self, machine):
        return isinstance(self.last(machine), LinkUp)
