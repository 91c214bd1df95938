"""Several report cards side by side: the same pairs, held-out episodes and label budgets, or no comparison at all.

    found = compare({"small": Card.from_json(...), "theirs": Card.from_json(...)})

Two rows differ where their intervals do not meet; else that one is better is not shown. What a report set beside its own latent
by the same resamples (`Difference`) says more than two intervals, and is taken where it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from corpora.store.told import listed
from lapa.reporting.card import FEATURES, Card, Probe
from lapa.reporting.figures import COLOURS, MODELS, label_curves
from lapa.reporting.probes.baselines import FEATURE_NUMBERS
from lapa.reporting.scores import Difference, MeanScore, Readout

Standing = Literal["best", "below", "above", "not shown", ""]
BASELINES = ("first_frame", "untrained", "pca", "vision", "features")
"""In this order; what they are is `FEATURES`."""
NO_KIN = "no untrained network of its kind stands beside it."
FROZEN = ("features", "vision")
"""Of which the first that a comparison has is what models are set against."""


@dataclass(frozen=True)
class Row:
    """One feature, by the number of labelled pairs."""

    title: str
    kind: str
    """Key of `FEATURES`."""
    numbers: int | None
    """That it is read from; None of codes, whose reports do not say."""
    scores: dict[int, MeanScore]
    beside_frozen: dict[int, Difference]
    """The latent minus frozen features, where its own report has them."""

    @property
    def is_model(self) -> bool:
        return self.kind in ("latent", "quantized")


@dataclass(frozen=True)
class BodyComparison:
    """All rows on the pairs of one body, the best with all labels first."""

    embodiment: str
    target: str
    gap_s: float
    dims: list[int]
    pairs: int
    holdout: str
    test_groups: list[str]
    labels: list[int]
    """Budgets; the last is all labels."""
    rows: list[Row]

    def standing(self, row: Row, labels: int) -> Standing:
        """Beside the best row."""
        best = max(self.rows, key=lambda each: each.scores[labels].r2_mean)
        if row is best:
            return "best"
        return "below" if row.scores[labels].ci95[1] < best.scores[labels].ci95[0] else "not shown"

    @property
    def frozen(self) -> Row | None:
        """The row of frozen features that models are set against."""
        return next((row for kind in FROZEN for row in self.rows if row.kind == kind), None)

    def beside_frozen(self, row: Row, labels: int) -> Standing:
        """A model beside `frozen`; "" for other rows, and without it."""
        frozen = self.frozen
        if frozen is None or not row.is_model:
            return ""
        if (paired := row.beside_frozen.get(labels)) is not None:
            low, high = paired.ci95
            return "above" if low > 0 else "below" if high < 0 else "not shown"
        own, other = row.scores[labels].ci95, frozen.scores[labels].ci95
        return "above" if own[0] > other[1] else "below" if own[1] < other[0] else "not shown"

    def curves(self) -> Figure:
        """R2 over labelled pairs, a line a row, those of models in colours of their own."""
        curves = {row.title: [(n, score.r2_mean, score.ci95) for n, score in row.scores.items()] for row in self.rows}
        models = [row.title for row in self.rows if row.kind == "latent"]
        colours = {row.title: COLOURS[row.kind] for row in self.rows}
        colours |= {title: MODELS[number % len(MODELS)] for number, title in enumerate(models)}
        return label_curves(curves, {row.title: row.title for row in self.rows}, colours, models)


@dataclass(frozen=True)
class Compared:
    """What is compared, and what else its report says."""

    name: str
    numbers: int
    model_hash: str
    verdict: str
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """Of at least two reports."""

    models: list[Compared]
    bodies: list[BodyComparison]
    notes: list[str]


def compare(cards: Mapping[str, Card]) -> Comparison:
    """`cards` by the name that each is shown under. Raises ValueError, which names the report and the remedy, where they are fewer
    than two or were not asked the same."""
    if len(cards) < 2:
        raise ValueError(f"{len(cards)} report to compare: give the folders of two or more")
    names = list(cards)
    first = cards[names[0]]
    for name in names:
        _check(name, cards[name], names[0], first)
    bodies = [body for body in first.probes if all(body in card.probes for card in cards.values())]
    if not bodies:
        told = "; ".join(f"'{name}': {', '.join(card.probes) or card.probe_reason}" for name, card in cards.items())
        raise ValueError(f"no body's motion is read in all reports ({told}): report on a corpus with known actions")
    for name in names[1:]:
        for body in bodies:
            _check_probe(name, cards[name], names[0], first, body)
    notes = [
        f"{body}: left out, for it is not read in {listed([n for n, c in cards.items() if body not in c.probes], 4)}."
        for body in sorted({body for card in cards.values() for body in card.probes} - set(bodies))
    ]
    compared = [
        Compared(
            name,
            card.latent.dim,
            card.model_hash,
            card.verdict.title,
            [*card.extracted, *([f"{card.no_decoder}: {NO_KIN}"] if card.no_decoder else [])],
        )
        for name, card in cards.items()
    ]
    return Comparison(compared, [_body(cards, body) for body in bodies], notes)


def _check(name: str, card: Card, other_name: str, other: Card) -> None:
    if not card.corpus_hash or not all(probe.pairs_hash for probe in card.probes.values()):
        raise ValueError(
            f"report '{name}' was made by an earlier version of giza, which did not say of which pairs: make it again"
        )
    if card.corpus_hash != other.corpus_hash:
        raise ValueError(
            f"report '{name}' is of another corpus than '{other_name}': give both the same --corpus (of several folders: the same "
            "ones)"
        )
    for setting, flag in (
        ("budgets", "--budgets"),
        ("draws", "--draws"),
        ("bootstrap", "--bootstrap"),
        ("seed", "--seed"),
    ):
        here, there = getattr(card.settings, setting), getattr(other.settings, setting)
        if here != there:
            raise ValueError(
                f"report '{name}' was made with {setting} {here}, '{other_name}' with {there}: make one again with the same {flag}"
            )


def _check_probe(name: str, card: Card, other_name: str, other: Card, body: str) -> None:
    mine, theirs = card.probes[body], other.probes[body]
    if (mine.feature, mine.dims) != (theirs.feature, theirs.dims):
        raise ValueError(
            f"report '{name}' reads {mine.feature} {mine.dims} of {body}, '{other_name}' {theirs.feature} {theirs.dims}: make one "
            "again with the same --target and --dims"
        )
    if mine.pairs_hash != theirs.pairs_hash:
        raise ValueError(
            f"report '{name}' is of other pairs of {body} ({mine.pairs:,}, {mine.gap_s:.3f} s apart) than '{other_name}' "
            f"({theirs.pairs:,}, {theirs.gap_s:.3f} s): extract both with the same --gap-s and --stride-s, and make each report "
            "with --same-pairs and the folder of the other's latents"
        )
    if mine.test_groups != theirs.test_groups or (mine.holdout == "k-fold") != (theirs.holdout == "k-fold"):
        tested = theirs if theirs.holdout != "k-fold" else mine
        raise ValueError(
            f"report '{name}' tests {body} on other episodes ({mine.holdout}: {len(mine.test_groups)}) than '{other_name}' "
            f"({theirs.holdout}: {len(theirs.test_groups)}): make both with --test-groups {' '.join(tested.test_groups)}"
        )


def _body(cards: Mapping[str, Card], body: str) -> BodyComparison:
    probes = {name: card.probes[body] for name, card in cards.items()}
    probe = next(iter(probes.values()))
    rows = [_row("latent", of, name) for name, of in probes.items()]
    rows += [_row("quantized", of, f"{name}, its code") for name, of in probes.items() if "quantized" in of.scores]
    for kind in BASELINES:
        rows += _baseline(kind, cards, {name: of for name, of in probes.items() if kind in of.scores})
    labels = [step.labels for step in _steps(probe)]
    rows.sort(key=lambda row: -row.scores[labels[-1]].r2_mean)
    asked = (probe.target, probe.gap_s, probe.dims, probe.pairs, probe.holdout, probe.test_groups)
    return BodyComparison(body, *asked, labels, rows)


def _steps(probe: Probe) -> list[Readout]:
    return [*probe.budgets, probe.readout]


def _row(kind: str, probe: Probe, title: str) -> Row:
    steps = _steps(probe)
    scores = {step.labels: MeanScore(step.scores[kind].r2_mean, step.scores[kind].ci95) for step in steps}
    frozen = next((each for each in FROZEN if each in probe.difference), "")
    beside = {step.labels: step.difference[frozen] for step in steps} if frozen and kind == "latent" else {}
    return Row(title, kind, _numbers(kind, probe), scores, beside)


def _numbers(kind: str, probe: Probe) -> int | None:
    return {"features": FEATURE_NUMBERS, "quantized": None}.get(kind, probe.dimension)


def _baseline(kind: str, cards: Mapping[str, Card], probes: Mapping[str, Probe]) -> list[Row]:
    """One row where it is the same for all; else one for each of those that share it, with their names."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, probe in probes.items():
        values = tuple(round(step.scores[kind].r2_mean, 6) for step in _steps(probe))
        groups.setdefault((_numbers(kind, probe), *values), []).append(name)
    rows = []
    for names in groups.values():
        settings = cards[names[0]].settings
        of = {"vision": settings.vision, "features": settings.features}.get(kind, "")
        title = f"{FEATURES[kind]} ({Path(of).name})" if of else FEATURES[kind]
        if len(groups) > 1 or kind == "untrained":
            title += f" of {listed(names, 4)}" if kind == "untrained" else f", as for {listed(names, 4)}"
        rows.append(_row(kind, probes[names[0]], title))
    return rows
