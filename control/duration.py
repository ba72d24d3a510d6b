"""Durations as RouterOS writes them: `30s`, `1h2m`, `50us` in, `7h24m18s`, `1w2d` out."""
from __future__ import annotations

import re

SECONDS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|[wdhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse(text: str | int | float) -> float:
    """Seconds. A bare number is seconds too, as in RouterOS (`keepalive-timeout=30`)."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError('must be a duration such as "30s", "1h2m" or "50us"')
    if not isinstance(text, str):
        seconds = float(text)
    elif _WHOLE.fullmatch(text):
        seconds = round(sum(float(number) * SECONDS[unit] for number, unit in _PART.findall(text)), 9)
    else:
        raise ValueError('must be a duration such as "30s", "1h2m" or "50us"')
    if not 0 <= seconds < float("inf"):
        raise ValueError("must be a duration that is not negative")
    return seconds


def show(seconds: float) -> str:
    """Whole seconds in weeks, days, hours, minutes and seconds, without the parts that are zero."""
    left, parts = int(seconds), []
    for unit in "wdhms":
        count, left = divmod(left, int(SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
