"""What a caller of ours encrypts and reads, by the plain Python of reference/mppe.py."""
from __future__ import annotations

from headrace.control import mppe
from reference.mppe import FLUSHED, Receiver, Sender

ENCRYPTED = 0x00FD


class Encryption:
    """Both directions of a link whose CCP is open; frames are PPP payloads, those of 00FD without its protocol field."""

    def __init__(self, cipher: mppe.Cipher) -> None:
        send, receive = cipher.send, cipher.receive
        self.sender = Sender(send.key, send.bits, stateless=send.stateless) if send else None
        self.receiver = Receiver(receive.key, receive.bits, stateless=receive.stateless) if receive else None
        self.flushed = 0            # frames that came with the flushed bit
        self.unread = 0             # that could not be read, because others were lost before them

    def hide(self, protocol: int, packet: bytes) -> bytes:
        assert self.sender
        return self.sender.send(protocol.to_bytes(2) + packet)

    def reveal(self, frame: bytes) -> tuple[int, bytes] | None:
        """The protocol and the packet; None when it must be asked for a flushed one."""
        assert self.receiver
        self.flushed += bool(int.from_bytes(frame[:2]) & FLUSHED)
        plain = self.receiver.receive(frame)
        if plain is None:
            self.unread += 1
            return None
        return (plain[0], plain[1:]) if plain[0] & 1 else (int.from_bytes(plain[:2]), plain[2:])
