"""The benchmark of MPPE compares like with like."""
from __future__ import annotations

import io

import pytest
from headrace.bench import mppe
from headrace.bench.lab import LabError
from headrace.fastpath import cpu
from reference import mppe as rfc
from rich.console import Console


@pytest.mark.parametrize("level", cpu.available())
@pytest.mark.parametrize("sessions", mppe.SESSIONS)
def test_all_ways_make_what_the_oracle_makes(level, sessions):
    before = cpu.name()
    cpu.use(level)
    made = mppe.ways(mppe.SESSIONS[sessions][:20], 100)
    cpu.use(before)
    octets = mppe.random.Random(100).randbytes(16 * 64 + 2048 * 20)
    n = max(mppe.SESSIONS[sessions][:20]) + 1
    ciphers = [rfc.Cipher(octets[16 * i:16 * i + 16], 128, stateless=True) for i in range(n)]
    want = b""
    for i, session in enumerate(mppe.SESSIONS[sessions][:20]):
        ciphers[session].change_key()
        at = 16 * n + 2048 * i
        want += ciphers[session].rc4.crypt(octets[at:at + 100])
    assert made.output() == want


def test_a_row_and_its_table():
    row = mppe.measure("6", 64, turns=3)
    assert {len(samples) for samples in row["samples"].values()} == {3} and row["times_kernel"] > 1
    out = io.StringIO()
    Console(file=out, width=120).print(mppe.tabled([row]))
    assert "kernel's way" in out.getvalue() and f"{row['times_openssl']:.2f}" in out.getvalue()


def test_without_libcrypto_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(mppe.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(LabError, match="libcrypto is not installed"):
        mppe.libcrypto()
