"""Why a tunnel, a call or a link ended, in words for a log, a table of failures, and a person."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Who asks what went wrong reads `text`; who counts reads `stage` and `code`."""
    stage: str   # tunnel | call | lcp | authentication | ccp | ipcp | link | admin
    code: str    # a short stable word: peer-terminated, bad-password, no-echo, loop, timeout, ...
    text: str    # one clear sentence
