"""Small concurrent programs, run in every order that a machine with store buffers allows.

A thread is a generator function: it yields operations and is sent what they load. Stores wait in the thread's buffer and reach
memory one at a time: a plain store may overtake earlier ones to other places, a release store waits for all before it, and a
fence for the buffer to be empty. A load sees its own thread's newest store first. Loads are not reordered: every load in the
protocols here is an acquire, or depends on one. That is more than x86 does to a program and less than some machines do.

    load(place)            its value                       add(place, n, release)   atomically, in memory
    store(place, v)        release=True: after all before  fence()
    until(place, test)     load, once the value passes the test; whoever waits in vain is deadlocked
    either(*untils)        the load of one of them
"""
from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

Program = Callable[[], Generator[tuple, Any, None]]


def load(place):
    return until(place, lambda value: True)


def until(place, test):
    return "until", (place, test)


def either(*untils):
    return "until", *(alternative for _, alternative in untils)


def store(place, value, release=False):
    return "store", place, value, release


def release(place, value):
    return store(place, value, True)


def add(place, n, release=False):
    return "add", place, n, release


def fence():
    return ("fence",)


class Thread:
    """Where one thread is: what its operations loaded so far leads there again, since generators cannot be copied."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.known: dict[tuple, Any] = {}

    def at(self, history: tuple) -> Any:
        """The operation behind this history of loaded values; None at its end."""
        if history not in self.known:
            generator = self.program()
            try:
                operation = next(generator)
                for value in history:
                    operation = generator.send(value)
            except StopIteration:
                operation = None
            self.known[history] = operation
        return self.known[history]


def explore(memory: dict, *programs: Program) -> int:
    """Run all orders; the number of states. AssertionError: one of the programs' own, or a deadlock."""
    threads = [Thread(program) for program in programs]
    start = (frozenset(memory.items()), tuple(((), ()) for _ in threads))     # memory; for each thread its history and its buffer
    seen, todo = {start}, [start]
    while todo:
        frozen, states = todo.pop()
        following = list(steps(dict(frozen), states, threads))
        ended = all(thread.at(history) is None for thread, (history, _) in zip(threads, states, strict=True))
        assert following or ended, f"deadlock: {dict(frozen)}"
        for state in following:
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return len(seen)


def steps(memory, states, threads):
    """Every state that one step leads to."""
    for i, (history, buffer) in enumerate(states):
        def moved(memory, history, buffer, i=i):
            return frozenset(memory.items()), (*states[:i], (history, buffer), *states[i + 1:])

        for k, (place, value, ordered) in enumerate(buffer):        # a store reaches memory
            if k == 0 or (not ordered and all(earlier[0] != place for earlier in buffer[:k])):
                yield moved({**memory, place: value}, history, buffer[:k] + buffer[k + 1:])
        operation = threads[i].at(history)
        if operation is None:
            continue
        kind, *rest = operation
        if kind == "store":
            yield moved(memory, (*history, None), (*buffer, tuple(rest)))
        elif kind == "fence":
            if not buffer:
                yield moved(memory, (*history, None), buffer)
        elif kind == "add":
            place, n, ordered = rest
            if not buffer if ordered else all(b[0] != place for b in buffer):
                yield moved({**memory, place: memory[place] + n}, (*history, memory[place]), buffer)
        else:
            for place, test in rest:
                value = next((b[1] for b in reversed(buffer) if b[0] == place), memory[place])
                if test(value):
                    yield moved(memory, (*history, value), buffer)
