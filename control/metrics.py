"""Prometheus' view of `stats`: the same numbers, under names that follow from their keys.

    {"sessions": {"open": 3}}             headrace_sessions_open 3
    {"verdicts": {"PASS": 9}}             headrace_verdicts_total{verdict="PASS"} 9
    {"workers": [{"load": 0.2}]}          headrace_workers_load{worker="0"} 0.2
    {"offload": {"tun": "uso"}}           headrace_offload_info{tun="uso"} 1
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


class _Stats:
    def __init__(self, stats: dict[str, Any]) -> None:
        self.stats = stats

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for name, labels, value, counter in rows("headrace", self.stats, {}):
            family = families.get(name)
            if family is None:
                kind = CounterMetricFamily if counter else GaugeMetricFamily
                family = families[name] = kind(name, f"{name[9:].replace('_', ' ')}, as in `headrace stats`", labels=list(labels))
            family.add_metric(list(labels.values()), value)     # type: ignore[attr-defined]
        return families.values()


def rows(name: str, value: Any, labels: dict[str, str]) -> Iterator[tuple[str, dict[str, str], float, bool]]:
    """Name, labels, value, and whether it only grows, of every number below value."""
    if isinstance(value, dict):
        texts = {plain(k): v for k, v in value.items() if isinstance(v, str)}
        if texts:
            yield f"{name}_info", {**labels, **texts}, 1.0, False
        for key, inner in value.items():
            if key == "verdicts" and isinstance(inner, dict):
                for verdict, count in inner.items():
                    yield f"{name}_verdicts", {**labels, "verdict": verdict}, float(count), True
            else:
                yield from rows(f"{name}_{plain(key)}", inner, labels)
    elif isinstance(value, list):
        label = name.rpartition("_")[2].removesuffix("s")
        for number, inner in enumerate(value):
            yield from rows(name, inner, {**labels, label: str(number)})
    elif isinstance(value, (int, float)):
        yield name, labels, float(value), False


def plain(key: str) -> str:
    return re.sub(r"\W", "_", key)


def render(stats: dict[str, Any]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Stats(stats))    # type: ignore[arg-type]
    return generate_latest(registry)
