"""What a process of ours may do, of capabilities(7).

The supervisor opens everything at the start as it likes. What it keeps for its life changes the network and binds low ports,
and drops what its children inherit (CAP_SETPCAP, for those that are started again). The children get their descriptors from
it and keep nothing, and no program that they run may gain anything.

Root without capabilities is the owner of root's files and a stranger to those of others. A headrace that runs from somebody's
home keeps the right to pass over file permissions, or its children could not even load their modules.
"""
from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

DAC_OVERRIDE, SETPCAP, NET_BIND_SERVICE, NET_ADMIN, NET_RAW = 1, 8, 10, 12, 13
SUPERVISOR = frozenset({SETPCAP, NET_BIND_SERVICE, NET_ADMIN, NET_RAW})

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38
VERSION = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def keep(wanted: Iterable[int]) -> None:
    """Give up every capability but those wanted, of the calling thread; what it does not have it does not get."""
    mask = sum(1 << number for number in wanted)
    for number in range(64):
        if not mask >> number & 1 and _libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) > 0:
            _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)      # fails without CAP_SETPCAP; then the sets below are what counts
    header, sets = _Header(VERSION, 0), (_Sets * 2)()
    _checked(_libc.capget(ctypes.byref(header), sets))
    for half, these in enumerate(sets):
        these.permitted &= mask >> 32 * half & 0xFFFFFFFF
        these.effective, these.inheritable = these.permitted, 0
    _checked(_libc.capset(ctypes.byref(header), sets))


def no_more() -> None:
    """From now on no program that this process runs has more than it has itself."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def foreign(read: Iterable[Path], write: Iterable[Path] = ()) -> Path | None:
    """The first on the way to these files that is another user's, and closed to us without a capability."""
    user = os.geteuid()
    for path in write:
        if path.stat().st_uid != user:
            return path
    for path in (*read, *write):
        for each in dict.fromkeys((*reversed(path.absolute().parents), *reversed(path.resolve().parents), path.resolve())):
            found = each.stat()
            others = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
            if found.st_uid != user and found.st_mode & others != others:
                return each
    return None


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
