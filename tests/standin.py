"""Small stand-ins for the supervisor's parts, each a program: see test_supervisor.py.

    standin.py serve FILE        the supervisor with the two below as its children
    standin.py forwarder|control a child: says it is up, and on SIGTERM writes its name into the run directory's `ended`
"""
from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from headrace.control import config, log, store
from headrace.control.supervisor import Supervisor
from headrace.control.tun import SetupError


def serve(file: Path) -> int:
    log.start("debug")
    commands = {role: [sys.executable, __file__, role] for role in ("forwarder", "control")}
    try:
        return Supervisor(config.load(file), file, commands).run()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1


def child(role: str) -> int:
    if os.environ.get("STANDIN_FAILS") == role:
        return 3
    mine = store.Store.from_environment()
    run_dir = config.restore(mine.read("config")).concentrator.run_dir

    def end(*_: object) -> None:
        with open(run_dir / "ended", "a") as file:
            file.write(role + "\n")
        os._exit(0)

    def again(*_: object) -> None:
        """What control does at a reload: read the file, and have the supervisor take it."""
        fd = store.memory("config", config.dump(config.load(Path(os.environ["HEADRACE_CONFIG"]))))
        try:
            mine.put("config", fd)
            answer = "taken"
        except store.StoreError as error:
            answer = str(error)
        (run_dir / "reloaded").write_text(answer)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, again)
    (run_dir / f"{role}.names").write_text("\n".join(mine.names()))
    mine.ready()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[2])) if sys.argv[1] == "serve" else child(sys.argv[1]))
