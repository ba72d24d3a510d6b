"""The forwarder's entry: gets its descriptors from the supervisor and runs one worker a thread."""
from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

from ..fastpath import crash
from ..fastpath.forwarder import Forwarder
from ..fastpath.table import Tables
from ..fastpath.worker import PortKind
from . import config as configuration
from . import listener, log, mac, tap, tun
from .address import mapped
from .settings import Config
from .store import Store

logger = logging.getLogger("headrace.forwarder")


def build(store: Store, config: Config) -> Forwarder:
    """The workers on their descriptors. Those stay open as long as the process."""
    own = config.concentrator
    fd = store.get("tables")
    tables = Tables(fd)
    os.close(fd)
    tables.forwarder_gone()      # our predecessor was reaped before we were started: none of its workers holds a pointer
    offload = json.loads(store.read("offload"))
    ports: list[dict[str, Any]] = []
    for worker in range(own.workers):
        listeners: list[tuple[Any, ...]] = []
        for kind, listen in listener.wire_ports(config.server):
            fd = store.get(f"{kind}/{listen}/{worker}")
            if kind == "udp":
                family, host, port = listener.address_of(listen)
                express = store.get(f"udp/{listen}/{own.workers + worker}")
                listeners.append((fd, family, host in ("0.0.0.0", "::"), listener.local_of(listen), port, PortKind.PORT_UDP, express))
            elif kind == "ethernet":            # with which MAC, control says in what it offers
                listeners.append((fd, socket.AF_PACKET, False, mac.station(bytes(6)), 0, PortKind.PORT_ETHERNET))
            else:
                local = mapped(socket.inet_pton(socket.AF_INET, listen))
                listeners.append((fd, socket.AF_INET, listen == "0.0.0.0", local, 0, PortKind.PORT_GRE))
        ports.append({"tun": store.get(f"tun/{own.interface}/{worker}"), "punt": store.get(f"punt/{worker}/forwarder"),
                      "listeners": listeners})
        if config.server.pptp.enabled and config.server.pptp.gre_transmit != "raw":
            ports[-1]["frames"] = store.get(f"frames/{worker}")
    merge = {"uso": 2, "tso": 1}.get(offload["tun"], 0)
    return Forwarder(tables, ports, spin_ns=round(own.spin * 1e9), gso=offload["udp"], merge=merge, window=own.reorder_window,
                     window_ns=round(own.reorder_time * 1e9))


def main() -> int:
    store = Store.from_environment()
    config = configuration.restore(store.read("config"))
    log.start(config.concentrator.log)
    forwarder = build(store, config)
    crash.watch(config.concentrator.run_dir)
    signal.signal(signal.SIGTERM, lambda *_: forwarder.stop())
    cores = sorted(tun.pinned("FORWARDER"))

    def run(worker: int) -> None:
        if cores:
            os.sched_setaffinity(0, {cores[worker % len(cores)]})      # 0 is the calling thread
        forwarder.run(worker)

    threads = [threading.Thread(target=run, args=(worker,), name=f"worker-{worker}") for worker in range(forwarder.count)]
    for thread in threads:
        thread.start()
    tap.Ports(store, forwarder).start()
    store.ready()
    lost = False
    for thread in threads:
        while thread.is_alive():
            thread.join(1.0)        # in slices, so that the signal's handler gets its turn
            if not lost and forwarder.lost_inner_port():
                lost = True
                logger.error("the interface %s was deleted under us: nothing is forwarded; restart headrace", config.concentrator.interface)
    return 0


if __name__ == "__main__":
    sys.exit(main())
