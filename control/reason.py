"""Why something ended, in words for a log, a table of failures, and a person."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Where it ended ("tunnel", "call", ...), a short code word that does not change, one sentence."""
    stage: str
    code: str
    text: str
