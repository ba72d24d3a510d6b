"""State machines as tables: rows of state, event, actions and next state, as the RFCs print them.

A state of * stands for all that have no row of their own for the event; next = means to stay;
actions are names of methods, - for none. What has no row at all is a protocol error.
"""
from __future__ import annotations

Transitions = dict[tuple[str, str], tuple[tuple[str, ...], str]]


def parse(table: str) -> Transitions:
    """The transitions {(state, event): (actions, next state)} of a table."""
    rows = [line.split() for line in table.splitlines() if line.strip()]
    states = dict.fromkeys(name for row in rows for name in (row[0], row[3]) if name not in "*=")
    transitions: Transitions = {}
    for state, event, actions, after in rows:
        names = () if actions == "-" else tuple(actions.split(","))
        for each in states if state == "*" else (state,):
            if state != "*" or not any(row[:2] == [each, event] for row in rows):
                if (each, event) in transitions:
                    raise ValueError(f"two rows for {each} {event}")
                transitions[each, event] = names, each if after == "=" else after
    return transitions
