"""IPv4, IPv6, TCP and UDP in plain Python: packets to test with, and what the fast path should make of them."""
import struct

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << i for i in range(8))
A4, B4 = bytes([10, 67, 0, 2]), bytes([192, 0, 2, 1])
A6, B6 = bytes.fromhex("fd000067" + "00" * 11 + "02"), bytes.fromhex("20010db8" + "00" * 11 + "01")


def total(octets):
    """The folded ones' complement sum (RFC 1071)."""
    octets += bytes(len(octets) % 2)
    value = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def pseudo(packet, transport, length):
    if packet[0] >> 4 == 4:
        return packet[12:20] + struct.pack("!HH", transport, length)
    return packet[8:40] + struct.pack("!IHH", length, 0, transport)


def tcp(payload=b"", sport=1234, dport=80, seq=1000, ack=7, flags=ACK, window=500, options=b"", urgent=0):
    assert len(options) % 4 == 0
    return struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack, (5 + len(options) // 4) << 4, flags, window, 0,
                       urgent) + options + payload


def udp(payload=b"", sport=1234, dport=53):
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def ip4(content, transport, id=100, df=True, tos=0, ttl=64, source=A4, destination=B4, options=b"", mf=False, offset=0, summed=True):
    assert len(options) % 4 == 0 and offset % 8 == 0
    header = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, 20 + len(options) + len(content), id & 0xFFFF,
                         df << 14 | mf << 13 | offset >> 3, ttl, transport, 0, source, destination) + options
    header = header[:10] + struct.pack("!H", 0xFFFF - total(header)) + header[12:]
    return finish(header + content, transport) if summed else header + content


def ip6(content, transport, tos=0, flow=0, hops=64, source=A6, destination=B6, extensions=b"", first=None, summed=True):
    header = struct.pack("!IHBB16s16s", 6 << 28 | tos << 20 | flow, len(extensions + content), transport if first is None else first, hops,
                         source, destination) + extensions
    return finish(header + content, transport, len(header)) if summed else header + content


def finish(packet, transport, at=None):
    """The packet with its transport checksum (zero so far) computed."""
    at = at or (packet[0] & 15) * 4
    field = at + {TCP: 16, UDP: 6, 58: 2}[transport]
    value = 0xFFFF - total(pseudo(packet, transport, len(packet) - at) + packet[at:])
    if transport == UDP and value == 0:
        value = 0xFFFF
    return packet[:field] + struct.pack("!H", value) + packet[field + 2:]


def right(packet):
    """Whether lengths and checksums of a whole packet without extension headers are right."""
    v4 = packet[0] >> 4 == 4
    at = (packet[0] & 15) * 4 if v4 else 40
    length = struct.unpack_from("!H", packet, 2)[0] if v4 else 40 + struct.unpack_from("!H", packet, 4)[0]
    transport = packet[9] if v4 else packet[6]
    if length != len(packet) or (v4 and total(packet[:at]) != 0xFFFF):
        return False
    if transport == UDP and struct.unpack_from("!H", packet, at + 4)[0] != length - at:
        return False
    return total(pseudo(packet, transport, length - at) + packet[at:]) == 0xFFFF


def wrap(v6, content, transport, id=100, **fields):
    """The same content in either family; hop limit and TTL, traffic class and TOS are one argument."""
    if v6:
        return ip6(content, transport, **{{"ttl": "hops"}.get(k, k): v for k, v in fields.items() if k not in ("df",)})
    return ip4(content, transport, id=id, **fields)


def burst(v6, transport, payload, size, flags=ACK, id=100, seq=1000, ack=7, options=b"", **fields):
    """The packets of `size` octets of payload each that carry `payload`; FIN and PSH on the last, CWR on the first."""
    packets = []
    for k, at in enumerate(range(0, len(payload), size)):
        part = payload[at:at + size]
        last = at + size >= len(payload)
        marks = flags & ~(0 if last else FIN | PSH) & ~(CWR if k else 0)
        content = tcp(part, seq=seq + at, ack=ack, flags=marks, options=options) if transport == TCP else udp(part)
        packets.append(wrap(v6, content, transport, id=id + k, **fields))
    return packets


def super_packet(v6, transport, payload, flags=ACK, options=b"", **fields):
    """What a TUN with virtio_net_hdr gives: one packet, its transport checksum not computed."""
    content = tcp(payload, flags=flags, options=options) if transport == TCP else udp(payload)
    return wrap(v6, content, transport, summed=False, **fields)
