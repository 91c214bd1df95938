"""What a linear read-out found, as a report card has it, and as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Interval = tuple[float, float]
"""The central 95%."""


def figure(value: float, sign: str = "") -> str:
    """Two decimals, and no minus before a zero."""
    return f"{round(value, 2) + 0.0:{sign}.2f}"


def span(ci: Sequence[float], sign: str = "") -> str:
    """An interval, as `figure`."""
    return f"[{figure(ci[0], sign)}, {figure(ci[1], sign)}]"


@dataclass(frozen=True)
class Score:
    """What a linear read-out finds in one feature, on episodes that it was not fitted on."""

    r2: list[float]
    """[K], of each dimension."""
    r2_mean: float
    ci95: Interval
    r2_ci95: list[Interval]
    alpha: float | None = None
    """Of the last fit; with all labels."""
    scaling: str | None = None


@dataclass(frozen=True)
class Difference:
    """R2 of the latent minus that of another feature, by the same resamples."""

    mean: float
    ci95: Interval


@dataclass(frozen=True)
class Readout:
    """All features at one number of labelled pairs."""

    labels: int
    scores: dict[str, Score]
    """Keys as in FEATURES; "quantized" is lacking in a continuous model, "untrained" where the model is not at hand,
    "vision" and "features" where none was named."""
    difference: dict[str, Difference]
    draws: int = 1
    """Random choices of the labelled pairs that the scores are means of."""


@dataclass(frozen=True)
class MeanScore:
    r2_mean: float
    ci95: Interval


@dataclass(frozen=True)
class BodyToBody:
    """What a read-out that was fitted on one body alone finds in the latents of another: whether a latent means the same on
    both."""

    fitted_on: str
    tested_on: str
    feature: str
    dims: list[int]
    train_pairs: int
    pairs: int
    """Of the body that it is tested on."""
    r2: list[float]
    """[K], of each dimension, from the latent."""
    scores: dict[str, MeanScore]
    """Of the latent, of PCA of the difference, and of shuffled latents."""
    few: dict[str, MeanScore]
    """Number of labelled pairs -> of the latent."""
