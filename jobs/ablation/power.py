"""Power of an ablation: which lift its replicates could have shown, and how many would show the one looked for."""

from __future__ import annotations

import math

from scipy.special import nctdtrinc, ndtri, stdtrit

POWER = 0.8
CONFIDENCE = 0.95
MOST = 1000
"""Replicates; more are not asked for."""


def critical(degrees: float | None) -> float:
    """Standard errors from the value to either end of a two-sided interval: of Student's t with so many degrees of freedom;
    None: of the normal distribution."""
    share = 0.5 + CONFIDENCE / 2
    return float(ndtri(share) if degrees is None else stdtrit(degrees, share))


def detectable(error: float, degrees: float | None) -> float:
    """The smallest true lift that 80% of such runs would show (two-sided, 5%), from the standard error of a paired
    difference: with n replicates the standard deviation of their differences over sqrt(n), with n - 1 degrees of freedom.

    The lift over the error is the noncentrality d of Student's t with P(t > t[0.975]) = 0.8 (Cohen, "Statistical Power
    Analysis for the Behavioral Sciences", 1988). It is 2.80 where the error is known, 3.76 from 5 replicates and 5.65 from
    3; t[0.975] + t[0.8] (Bloom, "Minimum detectable effects", Evaluation Review 1995) comes near it, but from 2 or 3
    replicates only to a power of 73% or 77%.
    """
    if degrees is None:
        return (critical(None) + float(ndtri(POWER))) * error
    return float(nctdtrinc(degrees, 1 - POWER, critical(degrees))) * error


def replicates_needed(spread: float, lift: float) -> int | None:
    """The fewest replicates by which `lift` is detectable where their differences spread (standard deviation) so; None
    where even MOST would not do."""
    for count in range(2, MOST + 1):
        if detectable(spread / math.sqrt(count), count - 1) <= lift:
            return count
    return None
