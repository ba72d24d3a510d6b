"""What a worker leaves behind when it crashes: in the tables file whose packets it had at hand, in a file of the run
directory what these were (design: a session in which the forwarder dies again and again is quarantined).

    Header.crashes, Header.crash[]     control reads them: it ends the session that they agree in
    <run-dir>/crash-0 ... crash-7      the packets of the batch in hexadecimal, for a report

Nothing of it costs anything a packet. The stage that a worker is in is stored once a batch (`enter`), its batch lies where it
always does, and the handler of the fatal signal looks at both. That names many sessions when many were in the batch; so for
CAREFUL_NS after a crash every batch is one packet, and the next crash names one.
"""
from libc.stdint cimport uint64_t

from .worker cimport Worker

cdef enum:
    CAREFUL_NS = 10000000000

cdef void at_work(Worker* w) noexcept nogil
cdef void be_careful(Worker* w) noexcept nogil
