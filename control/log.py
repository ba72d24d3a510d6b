"""The log: one line an event on standard error, where `make run`, systemd and containers look for it."""
from __future__ import annotations

import logging
import sys


def start(level: str) -> None:
    """Send headrace.* to standard error at this level, and of libraries what is a warning."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("headrace").setLevel(level.upper())
