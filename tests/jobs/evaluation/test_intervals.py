"""Intervals against their definitions, and against how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs.evaluation.statistics import Interval, bootstrap_ratio, resamples, wilson


@pytest.mark.parametrize(("successes", "trials"), [(19, 20), (1, 7), (60, 120), (5, 5), (0, 9)])
def test_wilsons_bounds_are_the_shares_that_a_score_test_would_just_not_reject(successes: int, trials: int) -> None:
    share = wilson(successes, trials)
    rate = successes / trials
    for bound in (share.low, share.high):
        if bound in (0.0, 1.0):
            assert bound == rate
            continue
        score = (rate - bound) / math.sqrt(bound * (1 - bound) / trials)
        assert abs(score) == pytest.approx(1.959964, abs=1e-5)
    assert share.low <= rate <= share.high


def test_wilson_of_the_textbook() -> None:
    share = wilson(10, 20)
    assert (share.low, share.high) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert str(share) == "50% [30, 70]" and str(wilson(0, 0)) == "-"
    assert wilson(0, 0).to_json() == {"successes": 0, "trials": 0, "rate": None, "wilson95": [0.0, 1.0]}


def test_wilson_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for truth in (0.5, 0.95):
        drawn = [wilson(int(k), 40) for k in rng.binomial(40, truth, 4000)]
        assert np.mean([share.low <= truth <= share.high for share in drawn]) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize(("successes", "trials"), [(3, 2), (-1, 2)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        wilson(successes, trials)


def bootstrap_mean(sums: np.ndarray, counts: np.ndarray, draws: int = 2000, seed: int = 0) -> Interval:
    """Of sums [G, ...] over counts [G]."""
    counts = np.broadcast_to(counts.reshape(-1, *[1] * (sums.ndim - 1)), sums.shape).astype(float)
    return bootstrap_ratio(sums, counts, resamples(len(sums), draws, seed))


def test_the_bootstrap_mean_is_that_of_resampled_groups() -> None:
    rng = np.random.default_rng(1)
    groups = [rng.normal(size=(size, 2)) for size in (5, 9, 3, 12)]
    sums, counts = np.stack([group.sum(0) for group in groups]), np.array([len(group) for group in groups])
    interval = bootstrap_mean(sums, counts, draws=500, seed=3)
    np.testing.assert_allclose(interval.value, np.concatenate(groups).mean(0))
    slow = []
    for weights in resamples(4, 500, 3):
        chosen = np.concatenate([groups[k] for k in range(4) for _ in range(int(weights[k]))])
        slow.append(chosen.mean(0))
    np.testing.assert_allclose(interval.low, np.percentile(slow, 2.5, axis=0))
    np.testing.assert_allclose(interval.high, np.percentile(slow, 97.5, axis=0))
    again = bootstrap_mean(sums, counts, draws=500, seed=3)
    np.testing.assert_array_equal(interval.low, again.low)


def test_steps_of_one_group_do_not_narrow_the_interval() -> None:
    """Each episode's steps repeated a hundred times: nothing new is known."""
    values = np.random.default_rng(2).normal(size=8)
    once = bootstrap_mean(values, np.ones(8))
    often = bootstrap_mean(values * 100, np.full(8, 100))
    np.testing.assert_allclose((once.low, once.high), (often.low, often.high))


def test_a_ratio_is_resampled_with_both_its_sides() -> None:
    bottom = np.random.default_rng(3).uniform(1, 9, 12)
    interval = bootstrap_ratio(0.25 * bottom, bottom, resamples(12, 200, 0))
    assert float(interval.low) == pytest.approx(0.25) and float(interval.high) == pytest.approx(0.25)


def test_paired_differences_hold_the_truth_and_tell_a_shift() -> None:
    rng = np.random.default_rng(4)
    hits = []
    for trial in range(300):
        interval = bootstrap_mean(rng.normal(0.3, 1, 50), np.ones(50), draws=400, seed=trial)
        hits.append(float(interval.low) <= 0.3 <= float(interval.high))
    assert np.mean(hits) == pytest.approx(0.94, abs=0.04)
    assert float(bootstrap_mean(rng.normal(1, 0.2, 30), np.ones(30)).low) > 0.8
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_mean(np.zeros(0), np.ones(0))
