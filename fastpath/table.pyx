"""Control's doors to the tables file.

Control is the only caller of what writes here, but for tests. Nothing blocks: where a copy must not be
touched before the workers passed a batch boundary, a door waits for that boundary, some microseconds
while a worker is awake. Bundles and PPPoE's services have their doors in bundle.pyx and service.pyx.
"""
import time

from itertools import islice

import numpy as np

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .cipher cimport Cipher, CipherKeys, newest
from .layout cimport find_sections, read_header
from .prefix cimport AddressEntry, AddressIndex, copy_entries, find_entry, list_lengths, listed, prefix_key, put_entry
from .record cimport fill_config, fill_path, sixteen
from .sys cimport (MADV_HUGEPAGE, MAP_SHARED, PROT_READ, PROT_WRITE, full_fence, load_acquire8, load_acquire64, madvise, mmap, munmap,
                   store_release8, store_release32, store_release64)
from .layout import LayoutError, banks_for, create
from .view import session_dtype, stage_dtype, tunnel_dtype, worker_dtype

TICK_SECONDS = TICK_NS / 1e9


cdef class Tables:
    """The mapped file. `Tables(fd)` maps it; the descriptor may be closed afterwards."""

    def __init__(self, int fd):
        cdef Header h
        read_header(fd, &h)
        cdef void* at = mmap(NULL, h.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if at == <void*>-1:
            raise MemoryError("mapping the tables file")
        madvise(at, h.size, MADV_HUGEPAGE)      # sessions in random order miss the TLB otherwise; not every file system can
        self.size = h.size
        find_sections(&self.table, <uint8_t*>at, &h)
        self.flips = {}
        self.swapped = self.offers = None
        self.spent = {}

    def __dealloc__(self):
        if self.table.header != NULL:
            munmap(self.table.header, self.size)

    # -- what it holds

    @property
    def banks(self):
        return self.table.header.banks

    @property
    def max_sessions(self):
        return self.table.header.max_sessions

    @property
    def workers(self):
        return self.table.header.workers

    def sessions(self):
        """All session records as a NumPy structured array, read-only."""
        return self._array(self.table.header.sessions, <size_t>self.table.header.banks << 16, session_dtype())

    def tunnels(self):
        return self._array(self.table.header.tunnels, TUNNELS, tunnel_dtype())

    def worker_records(self):
        return self._array(self.table.header.worker_records, self.table.header.workers, worker_dtype())

    def stage_records(self):
        """The stage timers of each worker: ns, kernel_ns (the part in system calls), packets and batches, by Stage."""
        return self._array(self.table.header.worker_records, self.table.header.workers, stage_dtype())

    def profile(self, uint64_t until_ns):
        """Let stages be timed until then, by the monotonic clock; 0: no longer."""
        store_release64(&self.table.header.profile_until, until_ns)

    @property
    def profile_until(self):
        return load_acquire64(&self.table.header.profile_until)

    def _array(self, size_t offset, size_t count, dtype):
        array = np.ndarray(count, dtype, buffer=memoryview(self), offset=offset)
        array.flags.writeable = False
        return array

    def __getbuffer__(self, Py_buffer* view, int flags):
        view.buf, view.len, view.readonly, view.itemsize, view.ndim = self.table.header, self.size, 0, 1, 1
        view.format, view.shape, view.strides, view.suboffsets, view.internal = NULL, NULL, NULL, NULL, NULL
        view.obj = self

    # -- quiescence

    def epochs(self):
        """A mark of now: hand it to `passed` later."""
        cdef uint32_t i
        full_fence()
        return [load_acquire64(&self.table.workers[i].epoch) for i in range(self.table.header.workers)]

    def passed(self, mark):
        """Whether every worker has been at a batch boundary since `mark`: none holds a pointer from before."""
        cdef uint32_t i
        cdef uint64_t then
        for i, then in enumerate(mark):
            if load_acquire64(&self.table.workers[i].epoch) == then and not load_acquire8(&self.table.workers[i].asleep):
                return False
        return True

    cdef _wait(self, mark, what):
        """Until `passed`. A forwarder that does not get there within 50 ms is stopped: nothing may be changed under it."""
        deadline = time.monotonic() + 0.05
        while not self.passed(mark):
            if time.monotonic() > deadline:
                raise BlockingIOError(f"{what} cannot change: a worker has not passed a batch boundary")
            time.sleep(0.00002)

    def forwarder_gone(self):
        """Its process has ended, so no worker holds a pointer. For who reaped it, before a new one starts."""
        cdef uint32_t i
        for i in range(self.table.header.workers):
            store_release8(&self.table.workers[i].asleep, 1)

    def beat(self, uint64_t now_ns):
        """Tell the workers that control is alive."""
        store_release64(&self.table.header.heartbeat, now_ns)
        self._wipe_spent(64)

    # -- sessions

    cdef Session* _session(self, uint32_t slot) except NULL:
        if slot >= <uint32_t>self.table.header.banks << 16:
            raise IndexError(f"slot {slot}")
        return &self.table.sessions[slot]

    def slot(self, uint16_t tunnel, uint16_t session):
        """Where the session with these ids of ours lives. A PPTP call: `peer_hash` of its peer, and our call id."""
        return slot_of(&self.table, tunnel, session)

    def peer_hash(self, bytes peer):
        """What stands for the tunnel id in the calls of a PPTP peer, whose address has 16 octets here."""
        peer = sixteen(peer)
        return peer_hash(<const uint8_t*><const char*>peer)

    def publish(self, uint8_t kind, uint16_t tunnel, uint16_t session, uint8_t owner, path, **config):
        """Fill a quiescent slot and publish it OPENING; return (slot, generation). `path` is
        (port, local, local port, peer, peer port), `config` as for `configure`."""
        cdef uint32_t slot = slot_of(&self.table, tunnel, session)
        cdef Session* s = self._session(slot)
        if not 0 < session < 65535:
            raise ValueError(f"session id {session}")
        if not self.reusable(slot):
            raise ValueError(f"slot {slot} is in use")
        cdef uint32_t generation = s.generation + 1
        if generation == 0:
            generation = 1
        s.generation = generation
        store_release8(&s.state, FREE)
        if s.ciphered:
            self._wipe(slot)
        s.active = 0
        s.nexthop = s.bundle = 0
        memset(s.config, 0, <size_t>&s.next - <size_t>s.config)
        s.echoes = 0
        store_release64(&self.table.used[slot >> 6], self.table.used[slot >> 6] | <uint64_t>1 << (slot & 63))
        s.kind, s.tunnel, s.session, s.owner = kind, tunnel, session, owner
        fill_path(&s.path, path)
        self.flips.pop(slot, None)
        fill_config(&s.config[0], config)
        store_release8(&s.state, OPENING)
        return slot, generation

    def configure(self, uint32_t slot, **config):
        """Put a new configuration in force: fill the idle copy, then switch."""
        cdef Session* s = self._session(slot)
        cdef uint8_t idle = (s.active ^ 1) & 1
        mark = self.flips.get(slot)
        if mark is not None:
            self._wait(mark, f"session in slot {slot}")
        s.config[idle] = s.config[idle ^ 1]
        fill_config(&s.config[idle], config)
        if s.ciphered:
            s.config[idle].cipher = 0 if slot in self.spent else newest(&self.table.ciphers[slot])
        if s.config[idle].flags & (CONFIG_ENCRYPT | CONFIG_DECRYPT) and s.config[idle].cipher == 0:
            raise ValueError(f"the session in slot {slot} has no keys to encrypt with")
        store_release8(&s.active, idle)
        self.flips.pop(slot, None)
        self.flips[slot] = self.epochs()
        for old in list(islice(self.flips, 4)):       # oldest first: what has passed need not be remembered
            if self.passed(self.flips[old]):
                del self.flips[old]

    def set_state(self, uint32_t slot, uint8_t state):
        store_release8(&self._session(slot).state, state)

    def retire(self, uint32_t slot):
        """Take a session out of force. The slot may be published again after `passed(epochs())`."""
        cdef Session* s = self._session(slot)
        store_release8(&s.state, RETIRED)
        self.flips.pop(slot, None)
        if s.ciphered:
            self.spent.pop(slot, None)
            self.spent[slot] = self.epochs()
        self._wipe_spent(4)

    # -- encryption

    def set_cipher(self, uint32_t slot, *, int send_bits, int receive_bits, bytes send_key, bytes receive_key, bint send_stateless,
                   bint receive_stateless):
        """Give a session the start keys of RFC 3079, 8 octets for 40 and 56 bits, 16 for 128. They come into force with the next
        `configure`, and both directions begin with them at a coherency count of 0. BlockingIOError, as `configure`: the keys
        before the last are still in a worker's hands."""
        cdef Session* s = self._session(slot)
        cdef Cipher* c = &self.table.ciphers[slot]
        cdef CipherKeys* k
        cdef uint16_t generation
        for bits, key in ((send_bits, send_key), (receive_bits, receive_key)):
            if bits not in (40, 56, 128):
                raise ValueError(f"MPPE with {bits} bits")
            if len(key) != (16 if bits == 128 else 8):
                raise ValueError(f"a start key of {len(key)} octets for {bits} bits")
        mark = self.spent.get(slot, self.flips.get(slot))
        if mark is not None:
            self._wait(mark, f"session in slot {slot}")
        if slot in self.spent:
            self._wipe(slot)
        generation = <uint16_t>(s.config[s.active & 1].cipher + 1)
        if generation == 0:
            generation = 2
        k = &c.keys[generation & 1]
        store_release8(&s.ciphered, 1)            # first, so that also what is left half done is wiped
        memset(k, 0, sizeof(CipherKeys))
        memcpy(k.send_start, <const char*>send_key, len(send_key))
        memcpy(k.receive_start, <const char*>receive_key, len(receive_key))
        k.send_bits, k.receive_bits = send_bits, receive_bits
        k.send_stateless, k.receive_stateless, k.generation = send_stateless, receive_stateless, generation

    def clear_cipher(self, uint32_t slot):
        """Let go of a session's keys, after a `configure` without CONFIG_ENCRYPT and CONFIG_DECRYPT. They are wiped as soon as no
        worker can hold them: by the next calls of `retire` and `beat`, or before the slot is used again."""
        cdef Session* s = self._session(slot)
        if s.config[s.active & 1].flags & (CONFIG_ENCRYPT | CONFIG_DECRYPT):
            raise ValueError(f"the session in slot {slot} encrypts")
        if s.ciphered:
            self.spent[slot] = self.epochs()

    cdef _wipe(self, uint32_t slot):
        """Overwrite a cipher record that no worker holds."""
        memset(&self.table.ciphers[slot], 0, sizeof(Cipher))
        self._session(slot).ciphered = 0
        self.spent.pop(slot, None)

    cdef _wipe_spent(self, int most):
        """Wipe what was let go of and no worker can hold any more, oldest first."""
        for slot in list(islice(self.spent, most)):
            if not self.passed(self.spent[slot]):
                break
            self._wipe(slot)

    def reusable(self, uint32_t slot):
        """Whether a slot may be published: it is free or retired, and in none of its worker's lists."""
        cdef Session* s = self._session(slot)
        return s.state in (FREE, RETIRED) and s.armed == 0 and s.acking == 0

    def used_slots(self):
        """The slots that were ever published, as an array of indices into `sessions()`."""
        bits = np.frombuffer(memoryview(self), np.uint8, <size_t>self.table.header.banks << 13, self.table.header.used)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def state(self, uint32_t slot):
        return self._session(slot).state

    def generation(self, uint32_t slot):
        return self._session(slot).generation

    def counters(self, uint32_t slot):
        """(rx packets, rx bytes, tx packets, tx bytes, last_rx, last_user) of one session; rx is from the peer."""
        cdef Session* s = self._session(slot)
        return s.rx_packets, s.rx_bytes, s.tx_packets, s.tx_bytes, s.last_rx, max(s.last_user, s.last_tx_user)

    # -- frames that pass the kernel's output by

    def write_nexthop(self, uint32_t index, int interface, uint32_t mtu, bytes header):
        """Say where next hop 1 to NEXTHOPS - 1 leads: Ethernet's header of 14 octets. Interface 0: nowhere at the moment."""
        if not 0 < index < NEXTHOPS or len(header) != 14:
            raise ValueError(f"next hop {index} with a header of {len(header)} octets")
        cdef NextHop* h = &self.table.nexthops[index]
        store_release32(&h.version, h.version | 1)
        full_fence()
        h.interface, h.mtu = interface, mtu
        memcpy(h.header, <const char*>header, 14)
        store_release32(&h.version, h.version + 1)

    def set_nexthop(self, uint32_t slot, uint32_t index):
        """Let a PPTP session's data go by that next hop; 0: by the kernel."""
        if index >= NEXTHOPS:
            raise ValueError(f"next hop {index}")
        store_release32(&self._session(slot).nexthop, index)

    def allow_bypass(self, bint allowed):
        """Whether frames may pass the kernel's output by."""
        store_release8(&self.table.header.bypass, allowed)

    # -- prefixes that lead to sessions

    def insert(self, bytes address, uint8_t length, uint32_t slot):
        """Let a prefix (16 octets, length 0 to 128, IPv4 96 more) lead to a slot. ValueError: there is no room."""
        cdef uint64_t key[2]
        cdef Header* h = self.table.header
        cdef AddressIndex* index = &h.index[h.active & 1]
        prefix_key(address, length, key)
        if index.live >= h.capacity // 8 * 7:
            raise ValueError(f"no room for more than {index.live} prefixes")
        # a search ends at an unused entry, so there must be some
        if not listed(index, key, length) or index.used >= h.capacity // 4 * 3 and index.used - index.live >= h.capacity // 8:
            self._rebuild(key, length)
        put_entry(self.table.addresses[h.active & 1], self.table.address_mask, &h.index[h.active & 1], key, length, slot)

    def delete(self, bytes address, uint8_t length, uint32_t slot):
        """Take a prefix out, if it still leads to that slot; say whether it did."""
        cdef uint64_t key[2]
        prefix_key(address, length, key)
        cdef AddressEntry* e = find_entry(self.table.addresses[self.table.header.active & 1], self.table.address_mask, key, length)
        if e == NULL or e.used != 1 or e.slot != slot:
            return False
        store_release8(&e.used, 2)
        self.table.header.index[self.table.header.active & 1].live -= 1
        return True

    def clear_addresses(self):
        """Take all prefixes out."""
        cdef uint32_t i
        cdef Header* h = self.table.header
        for i in range(h.capacity if h.index[h.active & 1].live else 0):
            if self.table.addresses[h.active & 1][i].used == 1:
                store_release8(&self.table.addresses[h.active & 1][i].used, 2)
        h.index[h.active & 1].live = 0

    def lookup(self, bytes address):
        """The slot that an address leads to, or 0."""
        cdef uint64_t key[2]
        address = sixteen(address)
        memcpy(key, <const char*>address, 16)
        return by_address(&self.table, key)

    cdef _rebuild(self, const uint64_t* key, uint8_t length):
        """Fill the other copy with what is in use, without tombstones and with the length of a prefix that is to come; swap."""
        cdef Header* h = self.table.header
        cdef AddressIndex index
        cdef int old = h.active & 1, new = old ^ 1
        cdef uint32_t filled = h.capacity if h.index[old].used else 0     # a look at a copy that was never used costs its memory
        list_lengths(self.table.addresses[old], filled, key, length, &index)
        if self.swapped is not None:
            self._wait(self.swapped, "the index of addresses")
        if h.index[new].used:
            memset(self.table.addresses[new], 0, h.capacity * sizeof(AddressEntry))
        h.index[new] = index
        copy_entries(self.table.addresses[old], filled, self.table.addresses[new], self.table.address_mask, &h.index[new])
        store_release8(&h.active, <uint8_t>new)
        self.swapped = self.epochs()

    # -- tunnels

    def write_tunnel(self, uint16_t tunnel, uint8_t state, uint16_t peer_tunnel, uint16_t ns, uint16_t nr, uint16_t acked, path):
        """What a restart needs of a tunnel; before the acknowledgment of what it says leaves."""
        cdef Tunnel* t = &self.table.tunnels[tunnel]
        if state == 0:
            store_release8(&t.state, 0)
            return
        if t.state == 0:
            t.generation += 1
        t.peer_tunnel, t.ns, t.nr, t.acked = peer_tunnel, ns, nr, acked
        if t.worker_generation == t.generation and <uint16_t>(nr - t.worker_nr) < 0x8000:
            t.generation += 1       # what the worker noted is known: half a round of numbers later it would look like the future
        fill_path(&t.path, path)
        store_release8(&t.state, state)

    def read_tunnel(self, uint16_t tunnel):
        """(state, peer tunnel id, ns, nr, acked, path), where nr is the worker's when that is ahead: it acknowledges HELLOs while
        control's heartbeat is stale. Beat, and let a batch boundary pass, before relying on it."""
        cdef Tunnel* t = &self.table.tunnels[tunnel]
        nr = t.nr
        if t.worker_generation == t.generation and 0 < <uint16_t>(t.worker_nr - t.nr) < 0x8000:
            nr = t.worker_nr
        return (t.state, t.peer_tunnel, t.ns, nr, t.acked,
                (t.path.port, t.path.local[:16], t.path.local_port, t.path.peer[:16], t.path.peer_port))
