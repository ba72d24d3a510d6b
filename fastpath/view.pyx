"""The NumPy view of the tables file: what of a record is shown, and where in it that stands."""
import numpy as np

from libc.stddef cimport size_t

from .table cimport COUNTERS, STAGES, Session, Tunnel, WorkerRecord


def session_dtype():
    cdef Session record
    cdef Session* s = &record
    fields = [
        ("generation", "u4", <size_t>&s.generation), ("tunnel", "u2", <size_t>&s.tunnel), ("session", "u2", <size_t>&s.session),
        ("kind", "u1", <size_t>&s.kind), ("state", "u1", <size_t>&s.state), ("owner", "u1", <size_t>&s.owner), ("ciphered", "u1", <size_t>&s.ciphered),
        ("bundle", "u4", <size_t>&s.bundle), ("place", "u1", <size_t>&s.place), ("attached", "u1", <size_t>&s.attached),
        ("port", "u1", <size_t>&s.path.port), ("local", "V16", <size_t>&s.path.local), ("peer", "V16", <size_t>&s.path.peer), ("peer_port", "u2", <size_t>&s.path.peer_port),
        ("rx_packets", "u8", <size_t>&s.rx_packets), ("rx_bytes", "u8", <size_t>&s.rx_bytes),
        ("last_rx", "u4", <size_t>&s.last_rx), ("last_user", "u4", <size_t>&s.last_user),
        ("tx_packets", "u8", <size_t>&s.tx_packets), ("tx_bytes", "u8", <size_t>&s.tx_bytes),
        ("no_gso", "u1", <size_t>&s.no_gso), ("last_tx_user", "u4", <size_t>&s.last_tx_user), ("echoes", "u1", <size_t>&s.echoes),
        ("waits", "u4", <size_t>&s.waits)]
    return _dtype(fields, sizeof(Session), <size_t>s)


def tunnel_dtype():
    cdef Tunnel record
    cdef Tunnel* t = &record
    fields = [("state", "u1", <size_t>&t.state), ("peer_tunnel", "u2", <size_t>&t.peer_tunnel), ("ns", "u2", <size_t>&t.ns),
              ("nr", "u2", <size_t>&t.nr), ("acked", "u2", <size_t>&t.acked), ("generation", "u4", <size_t>&t.generation), ("worker_generation", "u4", <size_t>&t.worker_generation),
              ("worker_nr", "u2", <size_t>&t.worker_nr)]
    return _dtype(fields, sizeof(Tunnel), <size_t>t)


def worker_dtype():
    cdef WorkerRecord record
    cdef WorkerRecord* w = &record
    fields = [("epoch", "u8", <size_t>&w.epoch), ("asleep", "u1", <size_t>&w.asleep), ("heartbeat", "u8", <size_t>&w.heartbeat),
              ("busy_ns", "u8", <size_t>&w.busy_ns), ("wakes", "u8", <size_t>&w.wakes), ("batches", "u8", <size_t>&w.batches),
              ("packets_up", "u8", <size_t>&w.packets_up), ("packets_down", "u8", <size_t>&w.packets_down),
              ("ring_in", "u8", <size_t>&w.ring_in), ("ring_out", "u8", <size_t>&w.ring_out),
              ("super_in", "u8", <size_t>&w.super_in), ("super_out", "u8", <size_t>&w.super_out),
              ("gso_sends", "u8", <size_t>&w.gso_sends), ("gso_failures", "u8", <size_t>&w.gso_failures),
              ("sends", "u8", <size_t>&w.sends), ("receives", "u8", <size_t>&w.receives), ("reads", "u8", <size_t>&w.reads),
              ("writes", "u8", <size_t>&w.writes), ("frames", "u8", <size_t>&w.frames), ("verdicts", ("u8", COUNTERS), <size_t>&w.verdicts)]
    return _dtype(fields, sizeof(WorkerRecord), <size_t>w)


def stage_dtype():
    cdef WorkerRecord record
    cdef WorkerRecord* w = &record
    fields = [("ns", ("u8", STAGES), <size_t>&w.stage_ns), ("kernel_ns", ("u8", STAGES), <size_t>&w.stage_kernel_ns),
              ("packets", ("u8", STAGES), <size_t>&w.stage_packets), ("batches", ("u8", STAGES), <size_t>&w.stage_batches)]
    return _dtype(fields, sizeof(WorkerRecord), <size_t>w)


def _dtype(fields, size, base):
    names, formats, offsets = zip(*fields)
    return np.dtype({"names": names, "formats": formats, "offsets": [o - base for o in offsets], "itemsize": size})
