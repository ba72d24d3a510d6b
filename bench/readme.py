"""The measured tables of README.md, made from what the benches wrote: `python -m headrace.bench.readme`.

    bench/results/*.json, as SECTIONS and PICTURES name them  ->  bench/results/*.svg, and Markdown between two markers of README.md

A file that is missing or lacks a figure is an error: the tables are whole, or README.md stays as it is. What was never measured has no
file and no table.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .plot import draw

TREE = Path(__file__).resolve().parents[1]
README, RESULTS = TREE / "README.md", TREE / "bench" / "results"
BEGIN, END = "<!-- measured: python -m headrace.bench.readme -->\n", "<!-- measured -->\n"
NOTHING = "No figures are published yet.\n"

Row = dict[str, Any]


class ResultError(Exception):
    """One sentence that says which result is not there."""


class Section(NamedTuple):
    """A table: of these files which rows, made into which others, and a column each with its heading and the cell for a row."""
    files: tuple[str, ...]
    title: str
    wanted: Callable[[Row], bool]
    columns: dict[str, Callable[[Row], str]]
    gather: Callable[[list[Row]], list[Row]] = lambda rows: rows


def traffic(row: Row) -> str:
    if row["traffic"] == "tcp":
        return f"TCP, {'one stream' if row['flows'] == 1 else str(row['flows']) + ' streams'}, {row['size']} octets"
    size = row["size"] if row["size"] == "imix" else f"{row['size']} octets"
    return f"{size}, " + ("one flow in runs" if row["flows"] == 1 else f"{row['flows']} flows in turn")


def ratio(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        low, high = row[f"{key}_interval"]
        return f"{row[key]:.2f} ({low:.2f} to {high:.2f})"
    return cell


def compared(other: str, cost: str, key: str) -> dict[str, Callable[[Row], str]]:
    """The columns of `headrace bench throughput`, beside the cost of another forwarder."""
    return {
        "traffic": traffic, "direction": lambda r: r["direction"], "wire": lambda r: r["wire"],
        "ns a packet": lambda r: f"{r['cost_ns']:.0f}", other: lambda r: f"{r[cost]:.0f}", "ratio": ratio(key),
        "Gbit/s": lambda r: f"{r['gbit_s']:.2f}", "what was full": lambda r: r["bottleneck"]}


def beside(rows: list[Row]) -> list[Row]:
    """The rows of all forwarders with the same traffic as one: its `by` is subject -> row."""
    same: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("traffic", "size", "flows", "sessions", "direction", "wire"))
        same.setdefault(key, {**row, "by": {}})["by"][row["subject"]] = row
    return list(same.values())


def times(subject: str) -> Callable[[Row], str]:
    """How many times what headrace costs this forwarder costs, of a row of `beside`; nothing when it did not run."""
    return lambda row: ratio("to_headrace")(row["by"][subject]) if subject in row["by"] else ""


PEERS = ("l2tpns", "wireguard-go", "openvpn")
IDLE: dict[str, Callable[[Row], str]] = {
    "sessions": lambda r: str(r["sessions"]), "tunnels": lambda r: str(r["tunnels"]), "minutes": lambda r: f"{r['seconds'] / 60:.0f}",
    "MiB": lambda r: f"{r['memory_mib']:.0f}", "octets a session": lambda r: f"{r['octets_a_session']:.0f}",
    "of a core": lambda r: f"{r['cpu_share']:.1%}", "echoes": lambda r: str(r["echoes"]), "lost": lambda r: str(r["lost"])}

CIPHERED: dict[str, Callable[[Row], str]] = {
    "traffic": traffic, "direction": lambda r: r["direction"], "ns a packet": lambda r: f"{r['cost_ns']:.0f}",
    "the cipher's": lambda r: f"{r['cipher_ns']:.0f} ({r['cipher_share']:.0%})", "null tunnel's": lambda r: f"{r['null_cost_ns']:.0f}",
    "ratio": ratio("ratio"), "without the cipher": lambda r: f"{(r['cost_ns'] - r['cipher_ns']) / r['null_cost_ns']:.2f}",
    "what was full": lambda r: r["bottleneck"]}

SETUP = ("setup", "setup-instant", "setup-pap", "setup-pppoe", "setup-pppoe-instant", "setup-dual")
FAMILIES = {"ip": "IPv4", "dual": "IPv4 and IPv6"}

SECTIONS = [
    Section(("wire.json",), "Beside the null tunnel", lambda r: r["subject"] == "headrace",
            compared("null tunnel's", "null_cost_ns", "ratio")),
    Section(("peers.json",), "How many times more other forwarders cost", lambda r: r["subject"] in PEERS, {
        "traffic": traffic, "direction": lambda r: r["direction"], "wire": lambda r: r["wire"],
        "headrace, ns a packet": lambda r: f"{r['headrace_cost_ns']:.0f}",
        **{peer: times(peer) for peer in PEERS}}, beside),
    Section(("offload.json",), "Without offloads, beside headrace with them", lambda r: r["subject"] == "offload-none",
            compared("with offloads", "headrace_cost_ns", "to_headrace") | {"to the null tunnel": ratio("ratio")}),
    Section(("sessions.json",), "Many sessions, one packet of each in turn", lambda r: r["subject"] == "headrace", {
        "octets": lambda r: str(r["size"]), "sessions": lambda r: str(r["sessions"]), "flows": lambda r: str(r["flows"]),
        "direction": lambda r: r["direction"], "wire": lambda r: r["wire"], "ns a packet": lambda r: f"{r['cost_ns']:.0f}",
        "null tunnel's": lambda r: f"{r['null_cost_ns']:.0f}", "ratio": ratio("ratio")}),
    Section(("kernels.json",), "The stages in memory, in batches of 64",
            lambda r: r.get("batch", 64) == 64 and r.get("size", "64") == "64", {
        "stages": lambda r: r["kernel"], "octets": lambda r: str(r.get("size", "")), "sessions": lambda r: str(r.get("spread", "")),
        "ns a packet": lambda r: f"{r['ns']:.1f}"}),
    Section(("pptp.json", "pptp-raw.json"), "PPTP beside a null tunnel over GRE", lambda r: r["subject"] == "headrace",
            {"sends": lambda r: "by the raw socket" if r["protocol"] == "pptp-raw" else "frames",
             **compared("null tunnel's", "null_cost_ns", "ratio")}),
    Section(("pptp-mppe.json",), "PPTP with MPPE-128, beside a null tunnel over GRE in clear", lambda r: r["subject"] == "headrace",
            CIPHERED),
    Section(("l2tp-mppe.json",), "L2TP with MPPE-128, beside a null tunnel over UDP in clear", lambda r: r["subject"] == "headrace",
            CIPHERED),
    Section(("pppoe.json",), "PPPoE beside a null tunnel over Ethernet", lambda r: r["subject"] == "headrace",
            compared("null tunnel's", "null_cost_ns", "ratio")),
    Section(("mppe.json",), "MPPE-128, stateless, in memory, each packet with its key", lambda r: r["benchmark"] == "mppe", {
        "sessions": lambda r: r["sessions"], "octets": lambda r: str(r["size"]), "ns a packet": lambda r: f"{r['ns']['ours']:.0f}",
        "kernel's way": lambda r: f"{r['ns']['kernel']:.0f}", "OpenSSL": lambda r: f"{r['ns']['openssl']:.0f}",
        "times kernel's way": lambda r: f"{r['times_kernel']:.2f}", "times OpenSSL": lambda r: f"{r['times_openssl']:.2f}"}),
    Section(tuple(f"{name}.json" for name in SETUP), "Sessions coming up", lambda r: r["benchmark"] == "setup", {
        "server": lambda r: r["subject"], "protocol": lambda r: r["protocol"],
        "families": lambda r: FAMILIES[r.get("family", "ip")], "at once": lambda r: str(r["window"] or "all"),
        "sessions": lambda r: str(r["sessions"]),
        "tunnels": lambda r: str(r["tunnels"]), "authentication": lambda r: r["auth"], "a second": lambda r: f"{r['per_second']:.0f}",
        "p50 ms": lambda r: f"{r['p50_ms']:.0f}", "p99 ms": lambda r: f"{r['p99_ms']:.0f}", "CPU ms": lambda r: f"{r['cpu_ms']:.2f}",
        "failed": lambda r: str(r["failed"]), "full": lambda r: r["bottleneck"]}),
    Section(("idle.json",), "Many sessions in few tunnels, keepalive only", lambda r: r["benchmark"] == "idle", IDLE),
    Section(("idle-tunnels.json",), "As many tunnels as sessions, keepalive only", lambda r: r["benchmark"] == "idle", IDLE),
]


def read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ResultError(f"{path} is missing: bench/README.md says how it is made")
    except ValueError as error:
        raise ResultError(f"{path} is not JSON: {error}")


# Picture -> the files whose rows it shows, and what it is called.
PICTURES = {"wire.svg": (("peers.json",), "cost and rate by kind of packet"),
            "sessions.svg": (("sessions.json",), "cost over the number of sessions"),
            "setup.svg": (("setup.json", "setup-pap.json"), "sessions that are up over time")}


def render(results: Path = RESULTS, whole: bool = True) -> str:
    """All pictures and sections as Markdown; not `whole`: without what was never measured."""
    wanted = [s if whole else s._replace(files=tuple(file for file in s.files if (results / file).exists())) for s in SECTIONS]
    wanted = [s for s in wanted if s.files]
    pictures = "".join(f"![{title}](bench/results/{name})\n" for name, (_, title) in PICTURES.items())
    return "\n".join([pictures, *(section(s, [results / file for file in s.files]) for s in wanted)])


def pictures(results: Path = RESULTS) -> dict[str, str]:
    """Name -> SVG."""
    return {name: draw([row for file in files for row in read(results / file)["results"]]) for name, (files, _) in PICTURES.items()}


def section(s: Section, paths: list[Path]) -> str:
    cells, sources = [], []
    for path in paths:
        record = read(path)
        try:
            rows = s.gather([row for row in record["results"] if s.wanted(row)])
            found = [[cell(row) for cell in s.columns.values()] for row in rows]
            sources.append(source(record))
        except KeyError as error:
            raise ResultError(f"{path} has no {error}: it is of another version of the bench")
        if not found:
            raise ResultError(f"{path} has no row for the table \"{s.title}\"")
        cells += found
    lines = [list(s.columns), ["---"] * len(s.columns), *cells]
    return f"**{s.title}**\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n" + "\n\n".join(sources) + "\n"


def source(record: Row) -> str:
    """Where figures come from."""
    machine, kernel, commit, command = (record[key] for key in ("machine", "kernel", "commit", "command"))
    tree = f"commit {commit[:12]}{' with changes' if commit.endswith('+') else ''}" if commit else "no commit"
    return f"{machine['cpu']}, {machine['cores']} cores, Linux {kernel}, {tree}: `{' '.join(command)}`"


def measured(readme: str) -> tuple[str, str, str]:
    """What stands before the tables, the tables, and what stands behind."""
    before, begin, rest = readme.partition(BEGIN)
    tables, end, behind = rest.partition(END)
    if not (begin and end):
        raise ResultError(f"README.md has no place for the tables, between {BEGIN.strip()} and {END.strip()}")
    return before + begin, tables, end + behind


def main() -> int:
    try:
        before, _, behind = measured(README.read_text())
        text, drawn = before + render() + behind, pictures()
        README.write_text(text)
        for name, svg in drawn.items():
            (RESULTS / name).write_text(svg)
    except ResultError as error:
        print(f"headrace.bench.readme: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
