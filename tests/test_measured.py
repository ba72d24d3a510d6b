"""README's measured tables are what the results say, and the script that makes them refuses what is not whole."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from headrace.bench import kernels, readme, record, setup, throughput, wire
from headrace.bench.readme import ResultError

RUN = wire.Run(cost_ns=210.0, packets=1000, gbit_s=7.5, pps=650_000.0, offered_pps=None, sent=None, lost=None, reordered=None,
               duplicates=None, latency_us=None, forwarder=0.5, others=1.0, foreign=0.0, shares={"forwarder": 0.5}, bottleneck="sink")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One row of each kind, in the shape that the benches themselves give it."""
    case = wire.Case("l2tp", "tcp", 1400, "up", "offload")
    small = wire.Case("l2tp", "udp", 64, "down", "plain", flows=64)
    runs = {"headrace": [RUN] * 7, "": [RUN._replace(cost_ns=200.0)] * 7, "offload-none": [RUN._replace(cost_ns=1050.0)] * 7}
    report = {"benchmarks": [{"name": "test_up[10-64-64]", "params": {"size": size, "batch": 64, "spread": "10"},
                              "extra_info": {"packets": 64}, "stats": {"data": [64 * 30e-9]}} for size in ("64", "512")]}
    came = {"failed": 0, "per_second": 900.4, "p50_ms": 20.0, "p99_ms": 71.0, "longest_ms": 90.0, "cpu_ms": 0.512, "foreign": 0.0,
            "bottleneck": "cores", "timeline": [(0.0, 0), (1.5, 5000), (2.9, 10000)]}
    idle = {"benchmark": "idle", "sessions": 60000, "tunnels": 60, "seconds": 300.2, "memory_mib": 800.0, "octets_a_session": 9000.0,
            "cpu_share": 0.031, "echoes": 600000, "lost": 0}
    mppe = {"benchmark": "mppe", "sessions": "6", "size": 1400, "batch": 64, "ns": {"ours": 1000.4, "kernel": 4000.0, "openssl": 3000.0},
            "times_kernel": 4.0, "times_openssl": 3.0}
    peer = {**runs, "l2tpns": [RUN._replace(cost_ns=2100.0)] * 7, "wireguard-go": [RUN._replace(cost_ns=840.0)] * 7}
    call = case._replace(protocol="pptp")
    ciphered = throughput.result("headrace", call._replace(mppe=128), {**runs, "headrace": [RUN._replace(cost_ns=600.0)] * 7}, None)
    crowd = small._replace(sessions=10000, flows=10000)
    one = {"subject": "headrace", "protocol": "l2tp", "sessions": 10000, "tunnels": 10, "auth": "mschap2", "window": 256}
    for name, rows in {"wire": [throughput.result("headrace", case, runs, None), throughput.result("headrace", small, runs, 1e6)],
                       "offload": [throughput.result("headrace", case, runs, None), throughput.result("offload-none", case, runs, None)],
                       "peers": [throughput.result(name, case, peer, None) for name in ("headrace", "l2tpns", "wireguard-go")],
                       "sessions": [throughput.result("headrace", c, runs, 1e6) for c in (crowd._replace(sessions=1), crowd)],
                       "pptp": [throughput.result("headrace", call, runs, None)],
                       "pptp-raw": [throughput.result("headrace", call._replace(protocol="pptp-raw"), runs, None)],
                       "pptp-mppe": [ciphered | {"cipher_ns": 300.0, "cipher_share": 0.5}],
                       "l2tp-mppe": [ciphered | {"protocol": "l2tp", "cipher_ns": 300.0, "cipher_share": 0.5}],
                       "pppoe": [throughput.result("headrace", case._replace(protocol="pppoe", size=1492), runs, None)],
                       "kernels": kernels.summary(report), "mppe": [mppe],
                       "setup": [setup.result(one, [came])], "setup-instant": [setup.result(one | {"window": 0}, [came])],
                       "setup-pap": [setup.result(one | {"auth": "pap"}, [came]),
                                     setup.result(one | {"auth": "pap", "subject": "l2tpns"}, [came | {"cpu_ms": 0.2}])],
                       "setup-pppoe": [setup.result(one | {"protocol": "pppoe"}, [came])],
                       "setup-pppoe-instant": [setup.result(one | {"protocol": "pppoe", "window": 0}, [came])],
                       "setup-dual": [setup.result(one | {"protocol": "pppoe", "family": "dual"}, [came])],
                       "idle": [idle], "idle-tunnels": [idle | {"tunnels": 60000}]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({
            "machine": {"cpu": "A CPU", "cores": 2, "architecture": "x86_64"}, "kernel": "6.1", "commit": "0123456789abcdef+",
            "command": ["headrace", "bench", name], "time": "", "results": rows}))
    return tmp_path


def test_readme_has_the_tables_that_the_results_make():
    """Before there are results it says so."""
    tables = readme.measured(readme.README.read_text())[1]
    assert tables == (readme.render(whole=False) if readme.RESULTS.exists() else readme.NOTHING)


def test_the_pictures_are_what_the_results_make():
    assert {name: (readme.RESULTS / name).read_text() for name in readme.PICTURES} == readme.pictures()


def test_tables(results):
    assert readme.render(results) == """\
![cost and rate by kind of packet](bench/results/wire.svg)
![cost over the number of sessions](bench/results/sessions.svg)
![sessions that are up over time](bench/results/setup.svg)

**Beside the null tunnel**

| traffic | direction | wire | ns a packet | null tunnel's | ratio | Gbit/s | what was full |
| --- | --- | --- | --- | --- | --- | --- | --- |
| TCP, one stream, 1400 octets | up | offload | 210 | 200 | 1.05 (1.05 to 1.05) | 7.50 | sink |
| 64 octets, 64 flows in turn | down | plain | 210 | 200 | 1.05 (1.05 to 1.05) | 7.50 | sink |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench wire`

**How many times more other forwarders cost**

| traffic | direction | wire | headrace, ns a packet | l2tpns | wireguard-go | openvpn |
| --- | --- | --- | --- | --- | --- | --- |
| TCP, one stream, 1400 octets | up | offload | 210 | 10.00 (10.00 to 10.00) | 4.00 (4.00 to 4.00) |  |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench peers`

**Without offloads, beside headrace with them**

| traffic | direction | wire | ns a packet | with offloads | ratio | Gbit/s | what was full | to the null tunnel |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| TCP, one stream, 1400 octets | up | offload | 1050 | 210 | 5.00 (5.00 to 5.00) | 7.50 | sink | 5.25 (5.25 to 5.25) |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench offload`

**Many sessions, one packet of each in turn**

| octets | sessions | flows | direction | wire | ns a packet | null tunnel's | ratio |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 64 | 1 | 10000 | down | plain | 210 | 200 | 1.05 (1.05 to 1.05) |
| 64 | 10000 | 10000 | down | plain | 210 | 200 | 1.05 (1.05 to 1.05) |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench sessions`

**The stages in memory, in batches of 64**

| stages | octets | sessions | ns a packet |
| --- | --- | --- | --- |
| up | 64 | 10 | 30.0 |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench kernels`

**PPTP beside a null tunnel over GRE**

| sends | traffic | direction | wire | ns a packet | null tunnel's | ratio | Gbit/s | what was full |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| frames | TCP, one stream, 1400 octets | up | offload | 210 | 200 | 1.05 (1.05 to 1.05) | 7.50 | sink |
| by the raw socket | TCP, one stream, 1400 octets | up | offload | 210 | 200 | 1.05 (1.05 to 1.05) | 7.50 | sink |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench pptp`

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench pptp-raw`

**PPTP with MPPE-128, beside a null tunnel over GRE in clear**

| traffic | direction | ns a packet | the cipher's | null tunnel's | ratio | without the cipher | what was full |
| --- | --- | --- | --- | --- | --- | --- | --- |
| TCP, one stream, 1400 octets | up | 600 | 300 (50%) | 200 | 3.00 (3.00 to 3.00) | 1.50 | sink |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench pptp-mppe`

**L2TP with MPPE-128, beside a null tunnel over UDP in clear**

| traffic | direction | ns a packet | the cipher's | null tunnel's | ratio | without the cipher | what was full |
| --- | --- | --- | --- | --- | --- | --- | --- |
| TCP, one stream, 1400 octets | up | 600 | 300 (50%) | 200 | 3.00 (3.00 to 3.00) | 1.50 | sink |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench l2tp-mppe`

**PPPoE beside a null tunnel over Ethernet**

| traffic | direction | wire | ns a packet | null tunnel's | ratio | Gbit/s | what was full |
| --- | --- | --- | --- | --- | --- | --- | --- |
| TCP, one stream, 1492 octets | up | offload | 210 | 200 | 1.05 (1.05 to 1.05) | 7.50 | sink |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench pppoe`

**MPPE-128, stateless, in memory, each packet with its key**

| sessions | octets | ns a packet | kernel's way | OpenSSL | times kernel's way | times OpenSSL |
| --- | --- | --- | --- | --- | --- | --- |
| 6 | 1400 | 1000 | 4000 | 3000 | 4.00 | 3.00 |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench mppe`

**Sessions coming up**

| server | protocol | families | at once | sessions | tunnels | authentication | a second | p50 ms | p99 ms | CPU ms | failed | full |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| headrace | l2tp | IPv4 | 256 | 10000 | 10 | mschap2 | 900 | 20 | 71 | 0.51 | 0 | cores |
| headrace | l2tp | IPv4 | all | 10000 | 10 | mschap2 | 900 | 20 | 71 | 0.51 | 0 | cores |
| headrace | l2tp | IPv4 | 256 | 10000 | 10 | pap | 900 | 20 | 71 | 0.51 | 0 | cores |
| l2tpns | l2tp | IPv4 | 256 | 10000 | 10 | pap | 900 | 20 | 71 | 0.20 | 0 | cores |
| headrace | pppoe | IPv4 | 256 | 10000 | 10 | mschap2 | 900 | 20 | 71 | 0.51 | 0 | cores |
| headrace | pppoe | IPv4 | all | 10000 | 10 | mschap2 | 900 | 20 | 71 | 0.51 | 0 | cores |
| headrace | pppoe | IPv4 and IPv6 | 256 | 10000 | 10 | mschap2 | 900 | 20 | 71 | 0.51 | 0 | cores |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench setup`

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench setup-instant`

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench setup-pap`

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench setup-pppoe`

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench setup-pppoe-instant`

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench setup-dual`

**Many sessions in few tunnels, keepalive only**

| sessions | tunnels | minutes | MiB | octets a session | of a core | echoes | lost |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 60000 | 60 | 5 | 800 | 9000 | 3.1% | 600000 | 0 |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench idle`

**As many tunnels as sessions, keepalive only**

| sessions | tunnels | minutes | MiB | octets a session | of a core | echoes | lost |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 60000 | 60000 | 5 | 800 | 9000 | 3.1% | 600000 | 0 |

A CPU, 2 cores, Linux 6.1, commit 0123456789ab with changes: `headrace bench idle-tunnels`
"""


@pytest.mark.parametrize("name", ["wire", "peers", "offload", "sessions", "kernels", "mppe", "setup", "setup-instant", "setup-pap",
                                  "idle", "idle-tunnels", "setup-pppoe", "setup-pppoe-instant", "setup-dual",
                                  "pptp", "pptp-raw", "pptp-mppe", "l2tp-mppe", "pppoe"])
def test_a_missing_file_is_an_error(results, name):
    (results / f"{name}.json").unlink()
    with pytest.raises(ResultError, match=f"{name}.json is missing"):
        readme.render(results)


def test_what_was_never_measured_has_no_table(results):
    whole = readme.render(results)
    (results / "pptp-mppe.json").unlink()
    before, _, behind = whole.partition("**PPTP with MPPE-128")
    assert readme.render(results, whole=False) == before + "**L2TP with " + behind.partition("**L2TP with ")[2]
    (results / "pptp-raw.json").unlink()
    assert "by the raw socket" not in readme.render(results, whole=False)


def test_a_missing_figure_is_an_error(results):
    path = results / "wire.json"
    record = json.loads(path.read_text())
    del record["results"][0]["cost_ns"]
    path.write_text(json.dumps(record))
    with pytest.raises(ResultError, match=r"wire\.json has no 'cost_ns'"):
        readme.render(results)
    path.write_text(json.dumps(record | {"results": []}))
    with pytest.raises(ResultError, match='no row for the table "Beside the null tunnel"'):
        readme.render(results)


def test_only_what_is_between_the_markers_changes(results, tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}old\n{readme.END}behind\n")
    monkeypatch.setattr(readme, "README", page)
    monkeypatch.setattr(readme, "RESULTS", results)
    for function in (readme.render, readme.pictures):
        monkeypatch.setattr(function, "__defaults__", (results, *(function.__defaults__ or ())[1:]))
    assert readme.main() == 0
    assert {path.name: path.read_text() for path in results.glob("*.svg")} == readme.pictures()
    assert page.read_text() == f"before\n{readme.BEGIN}{readme.render(results)}{readme.END}behind\n"
    (results / "wire.json").unlink()
    assert readme.main() == 1 and "wire.json is missing" in capsys.readouterr().err
    assert page.read_text().startswith(f"before\n{readme.BEGIN}![cost")


def test_which_changes_a_commit_is_told_with(tmp_path, monkeypatch):
    """A run that wrote its figures is no change of what the next one measures."""
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.net", *arguments], cwd=tmp_path, check=True,
                       capture_output=True)
    (tmp_path / "bench" / "results").mkdir(parents=True)
    files = [tmp_path / name for name in ("README.md", "bench/results/wire.json", "bench/record.py")]
    for file in files:
        file.write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    monkeypatch.setattr(record, "__file__", str(files[-1]))
    clean = record.commit()
    assert clean and len(clean) == 40
    for file, told in zip(files, (clean, clean, clean + "+"), strict=True):
        file.write_text("2\n")
        assert record.commit() == told
