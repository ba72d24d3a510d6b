"""Frames by the hundred thousand, each from a station that nobody heard of before: PADIs that somebody sends who means no good."""
from __future__ import annotations

import ctypes
import socket
import time

import numpy as np
from headrace.control import mac, tags

from .host import DISCOVERY, frame
from .place import Place

BATCH = 250
libc = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """struct mmsghdr."""
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("vectors", ctypes.POINTER(Vector)), ("count", ctypes.c_size_t),
                ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t), ("flags", ctypes.c_int), ("sent", ctypes.c_uint)]


def flood(place: Place, rate: int, seconds: float, interface: str = "wire") -> int:
    """Send so many PADIs a second, as far as the machine allows, from random MACs; how many left."""
    plain = frame(mac.station(mac.BROADCAST), mac.station(bytes(6)), DISCOVERY, tags.encode("PADI", 0, {"service_name": b""}))
    frames = np.tile(np.frombuffer(plain, np.uint8), (BATCH, 1))
    vectors, messages = (Vector * BATCH)(), (Message * BATCH)()
    for i in range(BATCH):
        vectors[i] = Vector(frames.ctypes.data + i * len(plain), len(plain))
        messages[i] = Message(None, 0, ctypes.pointer(vectors[i]), 1, None, 0, 0, 0)
    random, sent = np.random.default_rng(1), 0
    with place.entered(place.far):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((interface, 0))
    with sock:
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            if sent >= rate * passed:
                time.sleep(0.0005)
                continue
            frames[:, 6] = 2
            frames[:, 7:12] = random.integers(0, 256, (BATCH, 5), np.uint8)
            sent += max(libc.sendmmsg(sock.fileno(), messages, BATCH, 0), 0)
    return sent
