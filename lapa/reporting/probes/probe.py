"""The ridge probe: how much of a known motion a linear read-out finds in a latent, on episodes it never saw.

Groups (source videos, episodes) are the unit throughout: the probe is fitted on some and tested on others, its penalty
is chosen by cross-validation over groups, and its intervals come from resampling the test groups, because the pairs of
one episode are not independent. All features are fitted on the same pairs and tested with the same resamples, so that a
difference between two of them has an interval of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lapa.reporting.probes.ridge import RidgeFit, assign_folds, coordinates_of, fit_ridge
from lapa.reporting.scores import Difference, Interval, Readout, Score
from lapa.reporting.settings import ReportSettings

Array = NDArray[np.float64]
Feature = Callable[["Split"], Sequence[NDArray[np.floating]]]
"""Given a split, the feature's variants (several seeds of one baseline, for instance), each [N, D]. What a feature
learns from data (a PCA) it must learn from `split.train` alone."""


@dataclass(frozen=True)
class Split:
    """Which pairs a probe is fitted on and which it is tested on; boolean masks [N] whose groups do not meet."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def held_out_split(groups: NDArray[Any], held_out: set[str]) -> list[Split]:
    """One split: the named groups are tested, the others fitted."""
    test = np.isin(groups, sorted(held_out))
    return [Split(~test, test)]


def k_fold_splits(groups: NDArray[Any], seed: int) -> list[Split]:
    """Every group tested once; each fold is fitted on the groups of the others.

    Raises ValueError with fewer than two groups.
    """
    fold_of = assign_folds(groups, np.random.default_rng(seed))
    if fold_of.max(initial=0) < 1:
        raise ValueError("one group only: nothing can be held out; ingest more than one episode with known actions")
    return [Split(fold_of != fold, fold_of == fold) for fold in range(int(fold_of.max()) + 1)]


class TestGroups:
    """The sums over each test group from which R2 under any resampling of the groups follows."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, y: NDArray[np.floating], groups: NDArray[Any], splits: Sequence[Split]) -> None:
        tested = np.zeros(len(y), bool)
        for split in splits:
            tested |= split.test
        self.names = np.unique(groups[tested])
        self._index = np.searchsorted(self.names, groups)
        self._y = np.asarray(y, np.float64) - np.asarray(y[tested], np.float64).mean(0)
        self.count = self._sum(np.ones((len(y), 1)), tested)
        self.total = self._sum(self._y, tested)
        self.square = self._sum(self._y**2, tested)

    def _sum(self, values: Array, mask: NDArray[np.bool_]) -> Array:
        result = np.zeros((len(self.names), values.shape[1]))
        np.add.at(result, self._index[mask], values[mask])
        return result

    def squared_error(self, error: Array, test: NDArray[np.bool_]) -> Array:
        """[G, K]: sums over the tested pairs of each group; `error` [N, K] is read where `test` holds."""
        return self._sum(error**2, test)

    def r2(self, squared_error: Array, weights: Array) -> Array:
        """[B, K] for weights [B, G]: how often each group is drawn."""
        count = weights @ self.count
        variance = weights @ self.square - (weights @ self.total) ** 2 / count
        return 1.0 - (weights @ squared_error) / np.where(variance > 0, variance, np.nan)


def resample_groups(groups: int, resamples: int, rng: np.random.Generator) -> Array:
    """[resamples, groups]: how often each group is drawn, with replacement."""
    return rng.multinomial(groups, np.full(groups, 1.0 / groups), size=resamples).astype(np.float64)


def interval(values: NDArray[np.floating]) -> Interval:
    """The central 95% of `values` [B]."""
    low, high = np.nanpercentile(np.asarray(values, np.float64), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Readouts:
    """A probe's read-outs with all labels and with fewer."""

    all_labels: Readout
    budgets: list[Readout]
    skipped_budgets: list[int]
    """For want of labelled pairs."""


def run_probe(
    features: Mapping[str, Feature],
    y: NDArray[np.floating],
    groups: NDArray[Any],
    splits: Sequence[Split],
    settings: ReportSettings,
    progress: Callable[[str], None] | None = None,
) -> Readouts:
    """Probes each feature for y [N, K] and compares all with "latent", which is one of them.

    At a budget r2 is the mean over draws of labelled pairs, and the interval covers both the draw and the test groups.
    """
    bank = TestGroups(y, groups, splits)
    rng = np.random.default_rng([settings.seed, 1])
    weights = resample_groups(len(bank.names), settings.bootstrap, rng)
    possible = min(int(split.train.sum()) for split in splits)
    budgets = [budget for budget in settings.budgets if budget < possible]
    labelled = {0: [[np.flatnonzero(split.train) for split in splits]]}
    for budget, draw in itertools.product(budgets, range(settings.draws)):
        seed = [settings.seed, 2, budget, draw]
        chosen = [labelled_pairs(split, groups, budget, np.random.default_rng(seed)) for split in splits]
        labelled.setdefault(budget, []).append(chosen)
    errors: dict[str, dict[int, Array]] = {}
    fits: dict[str, RidgeFit] = {}
    for name, feature in features.items():
        if progress is not None:
            progress(name)
        errors[name], fits[name] = _fit_and_test(feature, y, groups, splits, labelled, bank, settings)
    scores, difference = _compare(errors, 0, bank, weights, np.zeros((settings.bootstrap, 1), int))
    scores = {
        name: replace(score, alpha=fits[name].alpha, scaling=fits[name].scaling) for name, score in scores.items()
    }
    fewer = []
    for budget in budgets:
        draws = rng.integers(settings.draws, size=(settings.bootstrap, settings.draws))
        fewer.append(Readout(budget, *_compare(errors, budget, bank, weights, draws), settings.draws))
    skipped = [budget for budget in settings.budgets if budget not in budgets]
    return Readouts(Readout(int(splits[0].train.sum()), scores, difference), fewer, skipped)


def labelled_pairs(split: Split, groups: NDArray[Any], budget: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`budget` pairs of the fewest whole groups in a random order, the last of which is labelled from its beginning: who
    labels, labels episodes, and pairs of one episode tell less than as many of all."""
    train = np.flatnonzero(split.train)
    _, number = np.unique(groups[train], return_inverse=True)
    place = rng.permutation(number.max() + 1)
    return np.sort(train[np.argsort(place[number], kind="stable")][:budget])


def _fit_and_test(
    feature: Feature,
    y: NDArray[np.floating],
    groups: NDArray[Any],
    splits: Sequence[Split],
    labelled: Mapping[int, Sequence[Sequence[NDArray[np.int64]]]],
    bank: TestGroups,
    settings: ReportSettings,
) -> tuple[dict[int, Array], RidgeFit]:
    """Budget -> squared error [draws, variants, G, K], and the last fit with all labels."""
    sums: dict[int, Array] = {}
    fit: RidgeFit | None = None
    for number, split in enumerate(splits):
        variants = [(values, coordinates_of(values[split.train])) for values in feature(split)]
        for budget, draws in labelled.items():
            table = np.zeros((len(draws), len(variants), len(bank.names), y.shape[1]))
            for (draw, chosen), (variant, (x, ways)) in itertools.product(enumerate(draws), enumerate(variants)):
                rows = chosen[number]
                found = fit_ridge(x[rows], y[rows], groups[rows], seed=settings.seed, coordinates=ways)
                error = np.zeros(y.shape)
                error[split.test] = found.predict(x[split.test]) - y[split.test]
                table[draw, variant] = bank.squared_error(error, split.test)
                fit = found if budget == 0 else fit
            sums[budget] = table + sums.get(budget, 0.0)
    assert fit is not None
    return sums, fit


def _compare(
    errors: Mapping[str, Mapping[int, Array]],
    budget: int,
    bank: TestGroups,
    weights: Array,
    draws: NDArray[np.int64],
) -> tuple[dict[str, Score], dict[str, Difference]]:
    """Point values and intervals at one budget; `draws` [B, D]: the draws that each resample averages."""
    once = np.ones((1, len(bank.names)))
    point: dict[str, Array] = {}
    sampled: dict[str, Array] = {}
    for name, by_budget in errors.items():
        table = by_budget[budget]  # [draws, variants, G, K]
        point[name] = np.mean([[bank.r2(cell, once)[0] for cell in row] for row in table], axis=(0, 1))
        of_draw = np.stack(
            [np.mean([bank.r2(cell, weights) for cell in row], axis=0) for row in table]
        )  # [draws, B, K]
        sampled[name] = of_draw[draws, np.arange(len(weights))[:, None]].mean(1)  # [B, K]
    scores, difference = {}, {}
    for name, own in point.items():
        drawn = sampled[name]
        of_each = [interval(column) for column in drawn.T]
        scores[name] = Score(own.tolist(), float(own.mean()), interval(drawn.mean(1)), of_each)
        if name != "latent":
            apart = float((point["latent"] - own).mean())
            difference[name] = Difference(apart, interval((sampled["latent"] - drawn).mean(1)))
    return scores, difference
