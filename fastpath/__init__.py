"""What happens to every packet, in compiled code without the GIL.

up     receive -> decap -> order -> join -> decrypt -> admit -> deliver      from the wire inward
down   collect -> route -> police -> cut -> encrypt -> split -> encap -> transmit     toward the wire
"""
