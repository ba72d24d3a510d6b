"""Inside a guest: one echo request of every size, not to be fragmented, and the sizes whose answer did not come back the same.

    python3 echoes.py ADDRESS FIRST LARGEST        sizes are of the IP packet; 29 carry one octet
"""
from __future__ import annotations

import socket
import struct
import sys

IP, ICMP = 20, 8
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
TRIES = 3


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data)) if len(data) % 2 == 0 else checksum(data + b"\0") ^ 0xFFFF
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def main() -> None:
    address, first, largest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    sock.settimeout(1)
    missing = []
    for size in range(first, largest + 1):
        data = bytes((size + i) % 251 for i in range(size - IP - ICMP))
        head = struct.pack("!BBHHH", 8, 0, 0, 7, size)
        head = head[:2] + struct.pack("!H", checksum(head + data)) + head[4:]
        for _ in range(TRIES):
            try:
                sock.sendto(head + data, (address, 0))
                if answered(sock, struct.pack("!HH", 7, size) + data):
                    break
            except OSError:             # nothing came, or the packet is larger than the interface takes
                continue
        else:
            missing.append(size)
    print(*missing)


def answered(sock: socket.socket, wanted: bytes) -> bool:
    """An answer of this id, number and data; others are passed over."""
    while True:
        packet = sock.recv(65535)
        if packet[IP] == 0 and packet[IP + 4:] == wanted:
            return True


main()
