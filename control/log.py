"""The log: one line an event on standard error, where `make run`, systemd and containers look for it."""
from __future__ import annotations

import logging
import sys
from typing import Any


class Formatter(logging.Formatter):
    """A line an event, whatever a peer called itself: what is not printable is shown as a question mark."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if not record.message.isprintable():
            record.message = "".join(c if c.isprintable() else "?" for c in record.message)
        return super().formatMessage(record)


class Limited:
    """So many lines a second of what strangers can cause; the first line after more than that says how many are missing."""

    def __init__(self, logger: logging.Logger, most: int) -> None:
        self.logger, self.most = logger, most
        self.since, self.said, self.missing = 0.0, 0, 0

    def __call__(self, level: int, now: float, text: str, *args: Any, exc_info: BaseException | None = None) -> None:
        if now - self.since >= 1:
            if self.missing:
                self.logger.warning("%d lines like these were left out", self.missing)
            self.since, self.said, self.missing = now, 0, 0
        if self.said < self.most:
            self.said += 1
            self.logger.log(level, text, *args, exc_info=exc_info)
        else:
            self.missing += 1


def start(level: str) -> None:
    """Send headrace.* to standard error at this level, and of libraries what is a warning."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    set_level(level)


def set_level(level: str) -> None:
    """Another level, at a reload."""
    logging.getLogger("headrace").setLevel(level.upper())
