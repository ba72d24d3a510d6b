"""MPPE as RFC 3078 and RFC 3079 tell it, one packet at a time, in plain Python."""
from __future__ import annotations

from hashlib import sha1

FLUSHED, ENCRYPTED, COUNTS = 0x8000, 0x1000, 4096


class Rc4:
    def __init__(self, key: bytes) -> None:
        self.table, self.i, self.j = list(range(256)), 0, 0
        j = 0
        for i in range(256):
            j = (j + self.table[i] + key[i % len(key)]) % 256
            self.table[i], self.table[j] = self.table[j], self.table[i]

    def crypt(self, data: bytes) -> bytes:
        out, table = bytearray(), self.table
        for octet in data:
            self.i = (self.i + 1) % 256
            self.j = (self.j + table[self.i]) % 256
            table[self.i], table[self.j] = table[self.j], table[self.i]
            out.append(octet ^ table[(table[self.i] + table[self.j]) % 256])
        return bytes(out)


def new_key_from_sha(start: bytes, session: bytes) -> bytes:
    """RFC 3079 section 2.4, GetNewKeyFromSHA."""
    return sha1(start + bytes(40) + session + b"\xf2" * 40).digest()[:len(start)]


def weaken(key: bytes, bits: int) -> bytes:
    return {40: b"\xd1\x26\x9e", 56: b"\xd1", 128: b""}[bits] + key[{40: 3, 56: 1, 128: 0}[bits]:]


class Cipher:
    """One direction. A session key lasts one packet (stateless), or until a count ends in FF."""

    def __init__(self, start: bytes, bits: int, *, stateless: bool) -> None:
        self.start, self.bits, self.stateless = start, bits, stateless
        self.key = weaken(new_key_from_sha(start, start), bits)
        self.rc4 = Rc4(self.key)
        self.count = 0            # of the next packet

    def change_key(self) -> None:
        """RFC 3078 section 7."""
        interim = new_key_from_sha(self.start, self.key)
        self.key = weaken(Rc4(interim).crypt(interim), self.bits)
        self.rc4 = Rc4(self.key)

    def step(self) -> None:
        """To the next count; the key changes before the packet that has it."""
        if self.stateless or self.count % 256 == 255:
            self.change_key()
        self.count = (self.count + 1) % COUNTS


class Sender(Cipher):
    flush = False
    anywhere = False          # answer a Reset-Request with whatever packet is next, as section 8.2 allows

    def send(self, plain: bytes) -> bytes:
        flushed = self.stateless or self.flush
        if self.flush and not self.stateless and not self.anywhere:
            self.count |= 0xFF          # the packets before it are as good as lost
        self.flush = False
        count = self.count
        self.step()
        flushed = flushed or count % 256 == 255
        if flushed and not self.stateless and count % 256 != 255:
            self.rc4 = Rc4(self.key)
        return (FLUSHED * flushed | ENCRYPTED | count).to_bytes(2) + self.rc4.crypt(plain)


class Receiver(Cipher):
    """The peer that a sender must satisfy: sees every packet that is not lost, in order, and knows each one's number."""
    discarding = False

    def receive(self, frame: bytes) -> bytes | None:
        """What the frame says; None when it cannot be read."""
        header = int.from_bytes(frame[:2])
        count = header % COUNTS
        if not self.stateless and not header & FLUSHED and (self.discarding or count != self.count):
            self.discarding = True
            return None
        while self.count != count:
            self.step()
        self.step()
        if header & FLUSHED and not self.stateless:
            self.rc4 = Rc4(self.key)
        self.discarding = False
        return self.rc4.crypt(frame[2:])


class LinuxReceiver(Receiver):
    """As Linux' ppp_mppe does it in stateful mode: A, and nothing else, changes the key."""

    def __init__(self, start: bytes, bits: int) -> None:
        super().__init__(start, bits, stateless=False)
        self.count = COUNTS - 1     # of the last packet

    def receive(self, frame: bytes) -> bytes | None:
        header = int.from_bytes(frame[:2])
        count, flushed = header % COUNTS, header & FLUSHED
        if not self.discarding:
            self.count = (self.count + 1) % COUNTS
            if count != self.count:
                self.discarding = True
                return None
        elif not flushed:
            return None
        else:
            while count >> 8 != self.count >> 8:
                self.change_key()
                self.count = (self.count + 256) % COUNTS
            self.discarding, self.count = False, count
        if flushed:
            self.change_key()
        return self.rc4.crypt(frame[2:])


class LinuxSender(Sender):
    """As Linux' ppp_mppe: a flushed packet has the next key, whatever its count."""

    def send(self, plain: bytes) -> bytes:
        count = self.count
        flushed = self.flush or count % 256 == 255
        if flushed:
            self.change_key()
        self.flush, self.count = False, (count + 1) % COUNTS
        return (FLUSHED * flushed | ENCRYPTED | count).to_bytes(2) + self.rc4.crypt(plain)
