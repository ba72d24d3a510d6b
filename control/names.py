"""What sessions are called: the first of a user is <SERVICE-USER>, each other one gets the lowest number that is free."""
from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from .session import Session


class Numbers:
    """The numbers of one user's sessions; 0 is the plain name."""

    __slots__ = ("free", "next", "used")

    def __init__(self) -> None:
        self.free: list[int] = []       # a heap of those below `next`
        self.next = self.used = 0

    def take(self) -> int:
        self.used += 1
        if self.free:
            return heappop(self.free)
        self.next += 1
        return self.next - 1

    def give(self, number: int) -> None:
        self.used -= 1
        heappush(self.free, number)


class Names:
    """The sessions that authenticated, by name and by account."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self._numbers: dict[str, Numbers] = {}                      # by service and user, as shown
        self._accounts: dict[str, dict[Session, None]] = {}         # in order of arrival

    def of(self, account: str) -> Sequence[Session]:
        return tuple(self._accounts.get(account, ()))

    def add(self, session: Session) -> None:
        """Give it a name; nothing when it has one."""
        if session.name:
            return
        plain = f"{session.service.name}-{shown(session.user)}"
        numbers = self._numbers.setdefault(plain, Numbers())
        passed = []
        while True:         # a user may be called what another one's second session is
            number = numbers.take()
            name = f"<{plain}-{number}>" if number else f"<{plain}>"
            if name not in self.sessions:
                break
            passed.append(number)
        for other in passed:
            numbers.give(other)
        session.name, session.number = name, number
        self.sessions[name] = session
        self._accounts.setdefault(session.account, {})[session] = None

    def remove(self, session: Session) -> None:
        """Nobody has its name any more."""
        if not session.name:
            return
        plain = f"{session.service.name}-{shown(session.user)}"
        numbers = self._numbers[plain]
        numbers.give(session.number)
        if not numbers.used:
            del self._numbers[plain]
        del self.sessions[session.name]
        same = self._accounts[session.account]
        del same[session]
        if not same:
            del self._accounts[session.account]
        session.name = ""


def shown(user: str) -> str:
    """A user's name without what could steer a terminal or begin a line of a log."""
    return "".join(c if c.isprintable() else "?" for c in user)
