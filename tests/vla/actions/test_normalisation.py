"""Normalisation: against slow references, inverted exactly, constants, masks, JSON to the bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.episodes.parts import Normalisation
from vla.actions.normalise import Normaliser, Statistics

KINDS: list[Normalisation] = ["min_max", "mean_std", "q01_q99", "none"]


def data(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-3, 3, size=shape[-1])
    return (rng.normal(size=shape) * scale + rng.normal(size=shape[-1]) * scale).astype(np.float32)


def slow_quantile(column: list[float], share: float) -> float:
    ordered = sorted(column)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def slow_statistics(column: list[float]) -> dict[str, float]:
    mean = math.fsum(column) / len(column)
    return {
        "min": min(column),
        "max": max(column),
        "mean": mean,
        "std": math.sqrt(math.fsum((x - mean) ** 2 for x in column) / len(column)),
        "q01": slow_quantile(column, 0.01),
        "q99": slow_quantile(column, 0.99),
        "count": len(column),
    }


def test_statistics_are_those_of_a_slow_loop_with_masks_and_nan() -> None:
    values = data(40, 6, 3)
    rng = np.random.default_rng(1)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[3, 2, 1] = np.inf
    mask = rng.random((40, 6)) < 0.8
    for per_step in (False, True):
        fast = Statistics.of(values, mask, per_step=per_step)
        assert fast.count.shape == ((6, 3) if per_step else (3,))
        for place in np.ndindex(*fast.count.shape):
            steps = [place[0]] if per_step else range(6)
            column = [
                float(values[n, h, place[-1]])
                for n in range(40)
                for h in steps
                if mask[n, h] and math.isfinite(values[n, h, place[-1]])
            ]
            for name, value in slow_statistics(column).items():
                assert getattr(fast, name)[place] == pytest.approx(value, rel=1e-12), (name, place)


def test_ranges_go_to_one_and_moments_to_zero_and_one() -> None:
    values = data(1000, 5)
    ranged = Normaliser.fit(values, "min_max").encode(values)
    np.testing.assert_allclose([ranged.min(0), ranged.max(0)], [[-1] * 5, [1] * 5], atol=1e-12)
    quantiles = np.quantile(Normaliser.fit(values, "q01_q99", clip=0).encode(values), [0.01, 0.99], axis=0)
    np.testing.assert_allclose(quantiles, [[-1] * 5, [1] * 5], atol=1e-12)
    standard = Normaliser.fit(values, "mean_std").encode(values)
    np.testing.assert_allclose([standard.mean(0), standard.std(0)], [[0] * 5, [1] * 5], atol=1e-9)
    np.testing.assert_array_equal(Normaliser.fit(values, "none").encode(values), values)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_inverted_exactly_beyond_the_fitted_range_too(kind: Normalisation, per_step: bool) -> None:
    normaliser = Normaliser.fit(data(100, 8, 6), kind, per_step=per_step, clip=0)
    other = 20.0 * data(50, 8, 6, seed=0).astype(np.float64)
    np.testing.assert_allclose(normaliser.decode(normaliser.encode(other)), other, rtol=1e-12, atol=1e-12)
    assert normaliser.per_step is per_step
    assert normaliser.horizon == (8 if per_step else None)
    assert normaliser.dim == 6


@pytest.mark.parametrize("kind", ["min_max", "mean_std", "q01_q99"])
def test_constants_become_zero_and_come_back_to_the_bit(kind: Normalisation) -> None:
    values = data(101, 4).astype(np.float64)
    values[:, 1] = 0.1  # the mean of 101 of these is not 0.1
    assert values[:, 1].mean() != 0.1
    values[:, 3] = 0
    normaliser = Normaliser.fit(values, kind)
    assert normaliser.constant == (1, 3)
    normalised = normaliser.encode(values)
    assert (normalised[:, [1, 3]] == 0).all()
    assert (normaliser.encode(values + 1)[:, [1, 3]] == 0).all()  # nor does what moves only later leave the range
    np.testing.assert_array_equal(normaliser.decode(normalised)[:, [1, 3]], values[:, [1, 3]])
    wild = np.full((7, 4), 123.0)  # whatever a network says of a constant
    np.testing.assert_array_equal(normaliser.decode(wild)[:, [1, 3]], np.tile(values[:7, [1, 3]], 1))


def test_rounding_is_no_motion() -> None:
    rng = np.random.default_rng(0)
    values = data(200, 3)
    values[:, 1] = np.float32(100) * (1 + np.float32(2**-23) * rng.integers(0, 2, 200)).astype(np.float32)
    values[:, 2] = 1e-8 * rng.normal(size=200)
    assert Normaliser.fit(values).constant == (1,)
    assert (Normaliser.fit(values).encode(values)[:, 1] == 0).all()
    assert Normaliser.fit(values, resolution=1e-6).constant == (1, 2)


def test_rare_motion_survives_quantiles_that_coincide() -> None:
    """A gripper that closes in 2 of 1000 frames has q01 = q99; at scale 0 the policy could never close it."""
    values = np.zeros((1000, 2), np.float32)
    values[:, 1] = np.linspace(0, 1, 1000)
    values[500:502, 0] = 0.04
    normaliser = Normaliser.fit(values, "q01_q99")
    assert normaliser.constant == ()
    normalised = normaliser.encode(values)
    assert normalised[:, 0].max() == pytest.approx(1)
    assert (normalised[:500, 0] == 0).all()
    np.testing.assert_allclose(normaliser.decode(normalised)[:, 0], values[:, 0], atol=1e-12)


def test_a_step_that_never_moves_is_constant_at_that_step_alone() -> None:
    values = data(50, 3, 2)
    values[:, 0, 0] = 0
    values[:, :, 1] = 7
    normaliser = Normaliser.fit(values, "min_max", per_step=True)
    assert normaliser.still.tolist() == [[True, True], [False, True], [False, True]]
    assert normaliser.constant == (1,)
    np.testing.assert_allclose(normaliser.decode(normaliser.encode(values)), values, rtol=1e-6)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(
    ("kind", "low", "high"), [("q01_q99", "q01", "q99"), ("min_max", "min", "max"), ("mean_std", "min", "max")]
)
def test_what_lies_beyond_the_data_is_cut_to_it_both_ways(
    kind: Normalisation, low: str, high: str, per_step: bool
) -> None:
    """V2: an outlier took 99.9% of the squared target, and a prediction of 5 went to the robot at 3.5 times the range."""
    values = data(400, 3, 2)
    normaliser = Normaliser.fit(values, kind, per_step=per_step)
    edges = [getattr(normaliser.statistics, name) for name in (low, high)]
    np.testing.assert_allclose(normaliser.decode(np.full((3, 2), 5e3)), np.broadcast_to(edges[1], (3, 2)), rtol=1e-9)
    np.testing.assert_allclose(normaliser.decode(np.full((3, 2), -5e3)), np.broadcast_to(edges[0], (3, 2)), rtol=1e-9)
    inside = np.clip(values, *edges)
    np.testing.assert_allclose(normaliser.decode(normaliser.encode(values)), inside, rtol=1e-6)
    if kind != "mean_std":
        assert np.abs(normaliser.encode(50 * values)).max() == pytest.approx(1)


def test_a_rare_event_above_noise_is_kept_and_a_glitch_is_cut() -> None:
    """V2: a gripper that closes in 1% of the frames, its sensor noisy, encoded to 143. Cut at q99, it could never close."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (10_000, 2)) * 2.8e-4
    values[::125, 0] = 0.04
    values[77, 1] = 0.04  # one frame is an outlier
    normaliser = Normaliser.fit(values)
    encoded = normaliser.encode(values)
    assert np.abs(encoded).max() <= 1 + 1e-9
    decoded = normaliser.decode(encoded)
    np.testing.assert_allclose(decoded[::125, 0], 0.04, rtol=1e-9)
    assert abs(decoded[77, 1]) < 3e-4 and encoded[:, 1].std() > 0.5


def test_clipping_can_be_chosen_and_switched_off() -> None:
    values = data(100, 2)
    assert np.abs(Normaliser.fit(values, clip=0).encode(values * 50)).max() > 10
    cut = Normaliser.fit(values, clip=1.5)
    assert np.abs(cut.encode(values * 50)).max() == 1.5
    np.testing.assert_allclose(cut.decode(np.full((1, 2), 9.0)), cut.decode(np.full((1, 2), 1.5)))
    inside = values[np.abs(cut.encode(values)).max(-1) < 1.5]
    np.testing.assert_allclose(cut.decode(cut.encode(inside)), inside, rtol=1e-6)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_json_keeps_every_bit(kind: Normalisation, per_step: bool) -> None:
    values = data(60, 4, 3)
    values[..., 2] = 0.3
    before = Normaliser.fit(values, kind, per_step=per_step, clip=None, resolution=np.array([0, 1e-6, 0.1]))
    after = Normaliser.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(after.encode(values), before.encode(values))
    np.testing.assert_array_equal(after.offset, before.offset)
    np.testing.assert_array_equal(after.scale, before.scale)
    assert (after.kind, after.clip, after.constant, after.per_step) == (kind, None, before.constant, per_step)
    assert after.to_json() == before.to_json()


def test_nan_stays_nan() -> None:
    """It must not turn into a plausible 0, not even in a constant dimension."""
    values = data(20, 2)
    values[:, 1] = 5
    normaliser = Normaliser.fit(values)
    assert np.isnan(normaliser.encode(np.full((1, 2), np.nan))).all()


def test_wrong_input_is_refused() -> None:
    values = data(10, 4, 3)
    with pytest.raises(ValueError, match="normalisation 'zscore': choose one of min_max"):
        Normaliser.fit(values, "zscore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="clip -1: a bound above 0"):
        Normaliser.fit(values, clip=-1)
    with pytest.raises(ValueError, match=r"mask of shape \(10,\)"):
        Normaliser.fit(values, mask=np.ones(10, bool))
    with pytest.raises(ValueError, match="want at least 3 axes"):
        Normaliser.fit(values[0], per_step=True)
    with pytest.raises(ValueError, match=r"fitted on \[\.\.\., 3\]"):
        Normaliser.fit(values).encode(values[..., :2])
    with pytest.raises(
        ValueError, match=r"fitted on \[\.\.\., 4, 3\]; statistics per step hold for that horizon alone"
    ):
        Normaliser.fit(values, per_step=True).decode(values[:, :3])
    hidden = np.ones((10, 4), bool)
    hidden[:, 2] = False
    with pytest.raises(ValueError, match="step 2, dimension 0: all 10 values are masked or NaN"):
        Normaliser.fit(values, per_step=True, mask=hidden)
    values[..., 1] = np.nan
    with pytest.raises(ValueError, match="dimension 1: all 40 values are masked or NaN"):
        Normaliser.fit(values)


def test_a_file_that_is_none_is_refused() -> None:
    good = Normaliser.fit(data(10, 3)).to_json()
    with pytest.raises(ValueError, match="normaliser without kind"):
        Normaliser.from_json({k: v for k, v in good.items() if k != "kind"})
    with pytest.raises(ValueError, match="statistics without q99"):
        Normaliser.from_json({**good, "statistics": {k: v for k, v in good["statistics"].items() if k != "q99"}})
    for wrong in ([1.0, 2.0], [1.0, 2.0, math.nan]):
        with pytest.raises(ValueError, match="statistic 'std'"):
            Normaliser.from_json({**good, "statistics": {**good["statistics"], "std": wrong}})
