"""Numbers from repeated runs: the median and how far it can be trusted."""
from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Estimate(NamedTuple):
    """The median, and an interval that holds the true one in at least `confidence` of all cases."""
    median: float
    low: float
    high: float
    confidence: float


def estimate(samples: Sequence[float], confidence: float = 0.95) -> Estimate:
    """By order statistics, which assume no distribution: of n samples, the k-th from either end enclose the median
    with probability 1 - 2 P(Binomial(n, 1/2) < k). With fewer than six, the widest interval falls short of 0.95 and
    says so."""
    if not samples:
        raise ValueError("no samples")
    ordered, n = sorted(samples), len(samples)
    tail, best = 0.0, (1, 1 - 2 * 0.5 ** n)
    for k in range(1, n // 2 + 1):
        tail += math.comb(n, k - 1) * 0.5 ** n
        if 1 - 2 * tail < confidence:
            break
        best = (k, 1 - 2 * tail)
    k, reached = best
    return Estimate(median(ordered), ordered[k - 1], ordered[n - k], max(reached, 0.0))
