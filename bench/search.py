"""The loss-free throughput of a forwarder, as RFC 2544 section 26.1 means it: the highest rate of which no more than the
threshold is lost, by halving the interval between a rate that passed and one that did not.

A trial is shorter than the RFC's 60 seconds: how long it was stands with the result.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .wire import Run

TRIALS, CLOSE = 10, 0.02        # at most; how near the two ends come


class LossFree(NamedTuple):
    """`pps`: what was offered in the best trial that passed, 0 when none did. `trials`: rate asked for, offered, loss of each."""
    pps: float
    gbit_s: float
    threshold: float
    trials: list[dict[str, Any]]


def loss_free(run: Callable[[float], Run], most: float, threshold: float) -> LossFree:
    """`most`: packets a second that came through flat out; where a queue is dropped from, less is possible without loss, and
    hardly ever more."""
    low, high = 0.0, 1.25 * most
    best: Run | None = None
    trials: list[dict[str, Any]] = []
    for _ in range(TRIALS):
        rate = (low + high) / 2 if trials else most
        one = run(rate)
        assert one.loss is not None and one.offered_pps is not None
        trials.append({"rate": rate, "offered_pps": one.offered_pps, "loss": one.loss})
        if one.loss <= threshold:
            low = rate
            if best is None or one.offered_pps > (best.offered_pps or 0):
                best = one
        else:
            high = rate
        if high - low <= CLOSE * high:
            break
    return LossFree((best.offered_pps or 0) if best else 0.0, best.gbit_s if best else 0.0, threshold, trials)
