"""What MPPE costs a packet, in memory and with its keys: `headrace bench mppe`.

128 bits, stateless, one core. Beside the fast path two others, one packet at a time as they are built: the kernel's way (SHA-1 and RC4 in
plain C) and OpenSSL's SHA-1 and RC4. The three take turns in one run, so that what else the machine does meets all of them alike; time is
the thread's own, figures are medians, ratios the medians of the turns' ratios.
"""
from __future__ import annotations

import ctypes
import ctypes.util
import random
from statistics import median
from typing import Any

from rich.table import Table

from ..fastpath import cpu
from ._ciphers import Ways
from .lab import LabError

SIZES = (64, 512, 1400)
PACKETS, BATCH, TURNS = 192, 64, 61
SESSIONS: dict[str, list[int]] = {
    "1": [0] * PACKETS, "6": [i % 6 for i in range(PACKETS)], "64 at random": random.Random(3).choices(range(64), k=PACKETS)}


def libcrypto() -> tuple[int, int, int]:
    """Where OpenSSL's SHA1, RC4_set_key and RC4 are: deprecated, and there."""
    name = ctypes.util.find_library("crypto")
    if name is None:
        raise LabError("OpenSSL's libcrypto is not installed")
    library = ctypes.CDLL(name)
    try:
        sha1, key, rc4 = (ctypes.cast(getattr(library, f), ctypes.c_void_p).value for f in ("SHA1", "RC4_set_key", "RC4"))
    except AttributeError as error:
        raise LabError(f"{name} was built without what is compared: {error}") from None
    return sha1 or 0, key or 0, rc4 or 0


def ways(sessions: list[int], size: int) -> Ways:
    """Packets, of which the three make the same."""
    octets = random.Random(size).randbytes(16 * (max(sessions) + 1) + 2048 * len(sessions))
    made = Ways(sessions, size, octets, libcrypto())
    said = set()
    for run in (lambda: made.ours(BATCH), made.kernel, made.openssl):
        run()
        said.add(made.output())
    if len(said) != 1:
        raise LabError("the ways differ in what they make of the same packets")
    return made


def measure(sessions: str, size: int, turns: int = TURNS) -> dict[str, Any]:
    made = ways(SESSIONS[sessions], size)
    samples: dict[str, list[float]] = {"ours": [], "kernel": [], "openssl": []}
    for _ in range(turns):
        samples["ours"].append(round(made.ours(BATCH) / made.count, 1))
        samples["kernel"].append(round(made.kernel() / made.count, 1))
        samples["openssl"].append(round(made.openssl() / made.count, 1))
    against = {name: round(median(b / a for a, b in zip(samples["ours"], samples[name], strict=True)), 2) for name in ("kernel", "openssl")}
    return {"benchmark": "mppe", "sessions": sessions, "size": size, "batch": BATCH, "cpu": cpu.name(),
            "ns": {name: median(values) for name, values in samples.items()}, "times_kernel": against["kernel"],
            "times_openssl": against["openssl"], "samples": samples}


def report() -> list[dict[str, Any]]:
    """All sizes and sessions. About ten seconds."""
    return [measure(sessions, size) for sessions in SESSIONS for size in SIZES]


def tabled(rows: list[dict[str, Any]]) -> Table:
    t = Table("sessions", title="MPPE-128, stateless: ns a packet with its key", box=None)
    for head in ("octets", "ours", "kernel's way", "OpenSSL", "times kernel's way", "times OpenSSL"):
        t.add_column(head, justify="right")
    for row in rows:
        ns = row["ns"]
        t.add_row(row["sessions"], str(row["size"]), f"{ns['ours']:.0f}", f"{ns['kernel']:.0f}", f"{ns['openssl']:.0f}",
                  f"{row['times_kernel']:.2f}", f"{row['times_openssl']:.2f}")
    return t
