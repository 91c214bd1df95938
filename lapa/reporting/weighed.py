"""Which of the figures that stand side by side the verdict weighs; the others are shown for scale, and the page says so."""

from __future__ import annotations

WEIGHED: dict[str, frozenset[str]] = {
    "probe": frozenset({"latent", "shuffled", "first_frame", "untrained", "pca", "vision", "features"}),
    "camera": frozenset({"latent"}),
    "reconstruction": frozenset({"explained", "random_code_explained"}),
    "cuts": frozenset({"explained", "continuous_explained", "guess_explained", "pca_explained"}),
}
"""Names of a probe's features, or fields of the card's part. A test asks `lapa.reporting.verdict.judge` itself."""
