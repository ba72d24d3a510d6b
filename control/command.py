"""The command: `headrace serve`, and what looks at it while it runs.

Every command takes -c FILE and finds the run directory there. A failure is one sentence on standard
error and an exit status that is not zero.
"""
from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from . import config as configuration
from . import listing
from .client import Client, ClientError
from .config import ConfigError

app = typer.Typer(help="headrace, a PPP tunnel concentrator.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

File = Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE", show_default=False,
                                           help="The configuration; without it ./headrace.toml, then /etc/headrace/headrace.toml.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
Name = Annotated[str, typer.Argument(help="A session's name, <l2tp-USER>, or the bare USER where that is unique.")]


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turn what went wrong into one sentence and status 1."""
    from .tun import SetupError
    try:
        yield
    except (ConfigError, ClientError, SetupError) as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise typer.Exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # the reader had enough
        raise typer.Exit(0)


def client(file: Path | None) -> Client:
    return Client(configuration.run_dir(configuration.find(file)))


def show(answer: Any) -> None:
    print(json.dumps(answer, indent=1))


@app.command(epilog="Example: headrace serve -c /etc/headrace/headrace.toml")
def serve(file: File = None) -> None:
    """Run the concentrator until SIGINT or SIGTERM; SIGHUP reads the configuration again."""
    with sentences():
        _serve(configuration.find(file))


def _serve(path: Path) -> None:
    from . import log
    from .tun import SetupError
    try:
        importlib.import_module("headrace.fastpath.cpu")
    except ValueError as error:             # what HEADRACE_CPU says is looked at once, there
        raise SetupError(str(error))
    from .supervisor import Supervisor
    config = configuration.load(path)
    log.start(config.concentrator.log)
    if path.stat().st_mode & 0o077:
        logging.getLogger("headrace.command").warning(
            "%s holds passwords, and others than its owner may read it; chmod 600 would be right", path)
    for note in configuration.notes(config):
        logging.getLogger("headrace.command").warning("%s: %s", path, note)
    code = Supervisor(config, path).run()
    if code:
        raise typer.Exit(code)


@app.command(epilog="Example: headrace run")
def run(file: File = None) -> None:
    """Like serve, and write a configuration first when there is none; say what to dial."""
    from . import example
    with sentences():
        path = file or next((p for p in configuration.PLACES if p.exists()), configuration.PLACES[0])
        if not path.exists():
            try:
                example.write(path)
            except OSError as error:
                raise ConfigError([f"{path}: cannot be written: {error.strerror}"])
            print(f"wrote {path} with a new password")
        print("\n".join(example.dial(configuration.load(path))), flush=True)
        _serve(path)


@app.command(epilog="Example: headrace check -c new.toml && mv new.toml /etc/headrace/headrace.toml")
def check(file: File = None) -> None:
    """Validate the configuration and say what is wrong, where."""
    with sentences():
        path = configuration.find(file)
        try:
            config = configuration.load(path)
        except ConfigError as error:
            for problem in error.problems[1:]:
                print(f"headrace: {problem}", file=sys.stderr)
            raise
        for note in configuration.notes(config):
            print(f"{path}: {note}")
        print(f"{path}: good")


@app.command(epilog="Example: headrace sessions --json | jq '.[].user'")
def sessions(file: File = None, as_json: AsJson = False,
             failed: Annotated[bool, typer.Option("--failed", help="The last sessions that were not to be, and why.")] = False) -> None:
    """Who is connected."""
    with sentences():
        answer = client(file).request("GET", "failed" if failed else "sessions")
        if as_json:
            show(answer)
        else:
            print(listing.table(listing.FAILED if failed else listing.SESSIONS, answer))


@app.command(epilog="Example: headrace monitor joe --once")
def monitor(name: Name, file: File = None, as_json: AsJson = False,
            once: Annotated[bool, typer.Option("--once", help="Once, and not every second.")] = False) -> None:
    """One session, every second until Ctrl-C or its end."""
    with sentences(), contextlib.suppress(KeyboardInterrupt):
        source = client(file)
        while True:
            session = source.request("GET", "sessions", name)
            print(json.dumps(session) if as_json else listing.monitor(session), flush=True)
            if once:
                return
            time.sleep(1)
            if not as_json:
                print(flush=True)


@app.command(epilog="Example: headrace disconnect '<l2tp-joe>'")
def disconnect(name: Name, file: File = None) -> None:
    """End a session, with the protocol's own goodbye."""
    with sentences():
        answer = client(file).request("DELETE", "sessions", name)
        print(f"{answer.get('name', name)} is disconnected")


@app.command(epilog="Example: headrace stats --json")
def stats(file: File = None, as_json: AsJson = False) -> None:
    """Verdict counters, load of the workers, offloads in force, tables."""
    with sentences():
        answer = client(file).request("GET", "stats")
        if as_json:
            show(answer)
        else:
            print(listing.stats(answer))


# Commands that come with compiled parts and a lab: they are loaded when they are asked for.
LAZY = {"bench": ("bench.command", "Benchmarks: throughput, set-up, idle sessions, kernels; as root."),
        "profile": ("bench.profile", "What each packet costs, stage by stage; as root.")}


def main() -> None:
    """The entry point."""
    for name, (module, words) in LAZY.items():
        if sys.argv[1:2] == [name]:
            app.add_typer(importlib.import_module(f"..{module}", __package__).app, name=name)
        else:
            app.command(name, help=words)(lambda: None)         # a line in --help
    app(prog_name="headrace")
