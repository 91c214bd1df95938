"""Power of an ablation: which lift its replicates could have shown, and how many would show the one looked for."""

from __future__ import annotations

import math

from scipy.special import ndtri, stdtrit

POWER = 0.8
CONFIDENCE = 0.95
MOST = 1000
"""Replicates; more are not asked for."""


def quantile(share: float, degrees: float | None) -> float:
    """Of Student's t with so many degrees of freedom; None: of the normal distribution."""
    return float(ndtri(share) if degrees is None else stdtrit(degrees, share))


def critical(degrees: float | None) -> float:
    """Standard errors from the value to either end of a two-sided interval."""
    return quantile(0.5 + CONFIDENCE / 2, degrees)


def detectable(error: float, degrees: float | None) -> float:
    """The smallest true lift that 80% of such runs would show (two-sided, 5%): (t[0.975] + t[0.80]) times the standard
    error of a paired difference, with its degrees of freedom.

    Bloom, "Minimum detectable effects", Evaluation Review 19(5), 1995. With n replicates the error is the standard
    deviation of their differences over sqrt(n), and the degrees are n - 1.
    """
    return (critical(degrees) + quantile(POWER, degrees)) * error


def replicates_needed(spread: float, lift: float) -> int | None:
    """The fewest replicates by which `lift` is detectable where their differences spread (standard deviation) so; None
    where even MOST would not do."""
    for count in range(2, MOST + 1):
        if detectable(spread / math.sqrt(count), count - 1) <= lift:
            return count
    return None
