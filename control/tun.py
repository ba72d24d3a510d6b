"""The TUN's queues: one descriptor a worker, packets with a virtio_net_hdr in front.

Offloads are tried in falling sets: USO came with Linux 6.2, and a setting can force each lower one.
TSO_ECN is never asked for, so the kernel cuts a super-packet that carries CWR by itself (RFC 3168
section 6.1.2 wants it on the first segment only). Closing the last queue deletes the interface.
"""
from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

from .settings import Concentrator
from .values import WORKERS

IFF_TUN, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x0100, 0x1000, 0x4000
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
CSUM, TSO4, TSO6, USO4, USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
SETS = {"uso": CSUM | TSO4 | TSO6 | USO4 | USO6, "tso": CSUM | TSO4 | TSO6, "csum": CSUM, "none": 0}
HEADER = 10             # octets of struct virtio_net_hdr


class SetupError(Exception):
    """Why the concentrator cannot start, in one sentence."""


def exists(interface: str) -> bool:
    try:
        socket.if_nametoindex(interface)
        return True
    except OSError:
        return False


def open_queues(interface: str, queues: int) -> list[int]:
    """Make the interface with that many queues."""
    if exists(interface):
        # TUNSETIFF would silently add a queue to somebody else's device
        raise SetupError(f"the interface {interface} exists already: name another in [concentrator] interface, or remove it")
    descriptors: list[int] = []
    try:
        for _ in range(queues):
            descriptors.append(_open_queue(interface))
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise
    return descriptors


def _open_queue(interface: str) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SetupError("there is no /dev/net/tun: load the kernel's tun module (modprobe tun), or give the container that device")
    except PermissionError:
        raise SetupError("/dev/net/tun cannot be opened: headrace must be started by root, or with CAP_NET_ADMIN")
    except OSError as error:
        raise SetupError(f"/dev/net/tun cannot be opened ({error.strerror}): load the kernel's tun module (modprobe tun)")
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", interface.encode(), flags))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", HEADER))
    except PermissionError:
        os.close(fd)
        raise SetupError(f"the interface {interface} cannot be made: headrace must be started by root, or with CAP_NET_ADMIN")
    except OSError as error:
        os.close(fd)
        raise SetupError(f"the interface {interface} cannot be made: {error.strerror}")
    return fd


def set_offload(fd: int, wanted: str) -> str:
    """Put the largest set in force that the setting allows and the kernel has; its name."""
    names = list(SETS)
    for name in names[0 if wanted == "auto" else names.index(wanted):]:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, SETS[name])
            return name
        except OSError:
            if name == "none":
                raise SetupError("the kernel refuses to set the TUN's offloads")
    raise AssertionError(wanted)


def workers(concentrator: Concentrator) -> int:
    """How many workers the setting means: 0 is one for each core that the forwarder may use, up to what it can have."""
    cores = pinned("FORWARDER") or os.sched_getaffinity(0)
    return concentrator.workers or min(len(cores), WORKERS)


def pinned(role: str) -> set[int]:
    """Cores from HEADRACE_FORWARDER_CPUS or HEADRACE_CONTROL_CPUS, settings of the benchmarks; empty when unset."""
    text = os.environ.get(f"HEADRACE_{role}_CPUS", "")
    try:
        return {int(core) for core in text.split(",") if core}
    except ValueError:
        sys.exit(f"headrace: HEADRACE_{role}_CPUS is {text!r}, but must be numbers of cores with commas between")
