"""A RADIUS server for concentrators that authenticate with nothing else: `python -m headrace.bench.radius --listen IP:PORT --secret S`.

    Access-Request      -> Access-Accept when the password is that of the bench's user (concentrator.py), else Access-Reject
    Accounting-Request  -> Accounting-Response

RFC 2865 with PAP and CHAP, RFC 2866. It says "ready" on standard output, and ends with SIGTERM.
"""
from __future__ import annotations

import argparse
import hmac
import socket
import struct
from hashlib import md5

from .concentrator import password
from .port import address

ACCESS_REQUEST, ACCESS_ACCEPT, ACCESS_REJECT, ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE = 1, 2, 3, 4, 5
USER_NAME, USER_PASSWORD, CHAP_PASSWORD, CHAP_CHALLENGE = 1, 2, 3, 60
HEAD = struct.Struct("!BBH16s")


def attributes(data: bytes) -> dict[int, bytes] | None:
    """Type -> value, of several of a type the first; None when lengths do not fit (RFC 2865 section 5)."""
    found: dict[int, bytes] = {}
    while data:
        if len(data) < 2 or not 2 <= data[1] <= len(data):
            return None
        found.setdefault(data[0], data[2:data[1]])
        data = data[data[1]:]
    return found


def revealed(hidden: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """A User-Password (RFC 2865 section 5.2)."""
    clear, last = b"", authenticator
    for at in range(0, len(hidden), 16):
        block = hidden[at:at + 16]
        clear += bytes(a ^ b for a, b in zip(block, md5(secret + last).digest(), strict=False))
        last = block
    return clear.rstrip(b"\0")


def known(given: dict[int, bytes], secret: bytes, authenticator: bytes) -> bool:
    """Whether it is one of the bench's users, with his password."""
    name = given.get(USER_NAME, b"")
    if not (name[:1] == b"u" and name[1:].isdigit() and len(name) < 10):
        return False
    right = password(int(name[1:])).encode()
    if USER_PASSWORD in given:
        return hmac.compare_digest(revealed(given[USER_PASSWORD], secret, authenticator), right)
    answer, challenge = given.get(CHAP_PASSWORD, b""), given.get(CHAP_CHALLENGE, authenticator)
    return len(answer) == 17 and hmac.compare_digest(answer[1:], md5(answer[:1] + right + challenge).digest())


def reply(request: bytes, secret: bytes) -> bytes | None:
    """What is to be sent back, or None for what is no request (RFC 2865 section 3)."""
    if len(request) < HEAD.size:
        return None
    code, number, length, authenticator = HEAD.unpack_from(request)
    if not HEAD.size <= length <= len(request) or (given := attributes(request[HEAD.size:length])) is None:
        return None
    if code == ACCESS_REQUEST:
        answer = ACCESS_ACCEPT if known(given, secret, authenticator) else ACCESS_REJECT
    elif code == ACCOUNTING_REQUEST:
        answer = ACCOUNTING_RESPONSE
    else:
        return None
    return HEAD.pack(answer, number, HEAD.size, md5(HEAD.pack(answer, number, HEAD.size, authenticator) + secret).digest())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--listen", required=True, type=address, help="IP:PORT")
    p.add_argument("--secret", required=True)
    a = p.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        s.bind(a.listen)
        print("ready", flush=True)
        while True:
            request, peer = s.recvfrom(4096)
            if (answer := reply(request, a.secret.encode())) is not None:
                s.sendto(answer, peer)


if __name__ == "__main__":
    main()
