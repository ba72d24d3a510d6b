"""A UDP relay, run beside an xl2tpd that has no IPv6: relay.py ADDRESS6 forwards 127.0.0.1:1701 to [ADDRESS6]:1701."""
import selectors
import socket
import sys

inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inside.bind(("127.0.0.1", 1701))
outside = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
to = (sys.argv[1], 1701)        # not connected: a concentrator that is not up yet is no error here
print("ready", flush=True)
peer = None
with selectors.DefaultSelector() as selector:
    selector.register(inside, selectors.EVENT_READ)
    selector.register(outside, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is inside:
                data, peer = inside.recvfrom(65535)
                outside.sendto(data, to)
            elif peer:
                inside.sendto(outside.recv(65535), peer)
