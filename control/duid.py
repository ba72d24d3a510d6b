"""Our name as a DHCPv6 server, a DUID-UUID (RFC 6355): the same for as long as this machine is the same.

It comes from /etc/machine-id, hashed, because that id must not be shown to a network; where there is none it is drawn once and kept
in the run directory.
"""
from __future__ import annotations

import hashlib
import os
from pathlib import Path

DUID_UUID = b"\x00\x04"
MACHINE_ID = Path("/etc/machine-id")


def server_duid(run_dir: Path, machine_id: Path = MACHINE_ID) -> bytes:
    """18 octets. OSError: there is no id, and the run directory takes none."""
    try:
        seed = machine_id.read_bytes().strip()
    except OSError:
        seed = b""
    if not seed:
        seed = kept(run_dir / "duid")
    return DUID_UUID + hashlib.sha256(b"headrace DHCPv6 " + seed).digest()[:16]


def kept(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        seed = os.urandom(16)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(seed)
        return seed
