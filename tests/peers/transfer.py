"""One end of a file's transfer over TCP, in the guest or on the host.

    transfer.py (listen | connect) (send | receive) ADDRESS PORT OCTETS

Prints "listening" when a peer may connect; at the end, on both sides, the octets and their SHA-256.
"""
import hashlib
import random
import socket
import sys


def send(stream, octets):
    """Octets that no two positions share, so that a swapped or repeated segment shows."""
    data = random.Random(octets).randbytes(octets)
    stream.sendall(data)
    stream.shutdown(socket.SHUT_WR)
    stream.recv(1)                      # the receiver has it all and closes
    return data


def receive(stream, octets):
    data = bytearray()
    while len(data) < octets and (piece := stream.recv(1 << 20)):
        data += piece
    return data


def main():
    side, verb, address, port, octets = sys.argv[1:]
    if side == "listen":
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, int(port)), family=family) as listener:
            listener.settimeout(30)
            print("listening", flush=True)
            stream, _ = listener.accept()
    else:
        stream = socket.create_connection((address, int(port)), 30)
    stream.settimeout(120)
    with stream:
        data = {"send": send, "receive": receive}[verb](stream, int(octets))
        print(len(data), hashlib.sha256(data).hexdigest(), flush=True)


main()
