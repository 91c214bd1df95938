"""Usage and perplexity against their formulas, and the alarm that goes off on collapsed inputs."""

from __future__ import annotations

import numpy as np
import pytest

from lapa.codes import (
    CodeCounter,
    Codes,
    between_group_share,
    effective_dimensions,
    effective_rank,
    latent_health,
    perplexity,
)


def counted(codes: np.ndarray, size: int) -> Codes:
    counter = CodeCounter((size,) * codes.shape[1])
    for start in range(0, len(codes), 7):  # in batches of odd size
        counter.add(codes[start : start + 7])
    return counter.summary()


def test_perplexity_is_exp_of_the_entropy() -> None:
    counts = np.array([8, 4, 2, 2, 0])
    bits = 0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3
    assert perplexity(counts) == pytest.approx(2**bits)
    assert perplexity(np.full(16, 9)) == pytest.approx(16)
    assert perplexity(np.array([5, 0, 0])) == pytest.approx(1)
    assert perplexity(np.zeros(4, np.int64)) == 0


def test_perplexity_is_of_the_data_set_and_not_of_batches() -> None:
    """Each batch holds one code only; together they use all 16."""
    codes = np.repeat(np.arange(16), 7)[:, None]
    found = counted(codes, 16)
    assert found.used == 16
    assert found.perplexity == pytest.approx(16)
    assert not found.collapsed


def test_the_worst_position_is_reported_and_the_rows_as_a_whole() -> None:
    codes = np.stack([np.arange(384) % 8, np.arange(384) // 8 % 4, np.arange(384) % 2], 1)
    found = counted(codes, 8)
    assert [position.used for position in found.positions] == [8, 4, 2]
    assert found.used == 2 and found.perplexity == pytest.approx(2)
    assert found.combinations.distinct == found.combinations.perplexity == pytest.approx(32)
    assert found.combinations.possible == 512


def test_constant_codes_that_differ_from_position_to_position_are_collapsed() -> None:
    """L9: taken together, four constants are four codes that are used alike."""
    found = counted(np.tile([0, 5, 9, 13], (500, 1)), 16)
    assert found.used == 1 and found.perplexity == found.combinations.perplexity == pytest.approx(1)
    assert found.collapsed


def test_a_code_that_is_copied_over_the_positions_is_one_code() -> None:
    """L9: taken together, two bits copied over four tokens are 16 codes that are used alike."""
    bits = np.random.default_rng(0).integers(4, size=(2000, 1))
    copied = counted(bits + np.array([0, 4, 8, 12]), 16)
    assert copied.combinations.perplexity == pytest.approx(4, rel=0.01) and copied.collapsed
    four_bits = np.random.default_rng(0).integers(16, size=(2000, 1))
    repeated = counted((four_bits + np.arange(4)) % 16, 16)
    assert repeated.used == 16 and not repeated.collapsed and repeated.thin
    rows = np.random.default_rng(0).integers(16, size=(2000, 4))
    for pairs in (40, 2000):  # few pairs cannot show all rows, or all codes
        assert not counted(rows[:pairs], 16).collapsed
    assert not counted(rows, 16).thin


@pytest.mark.parametrize(
    ("used", "collapsed", "thin"),
    [(16, False, False), (9, False, False), (7, False, True), (3, True, True), (1, True, True)],
)
def test_the_alarm_goes_off_on_collapse(used: int, collapsed: bool, thin: bool) -> None:
    codes = np.random.default_rng(1).integers(used, size=(2000, 4))
    found = counted(codes, 16)
    assert found.used == used
    assert found.collapsed is collapsed
    assert found.thin is thin


def test_the_alarm_goes_off_where_all_codes_occur_but_one_takes_nearly_all() -> None:
    codes = np.concatenate([np.zeros(10000, int), np.arange(16)])[:, None]
    found = counted(codes, 16)
    assert found.used == 16
    assert found.collapsed


def test_codes_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="codebook of 8"):
        CodeCounter((8,)).add(np.array([[8]]))
    with pytest.raises(ValueError, match="from 0 to 5"):
        CodeCounter((8, 4)).add(np.array([[7, 0], [0, 5]])[1:])
    with pytest.raises(ValueError, match="2 codes a pair, the model has 4"):
        CodeCounter((8,) * 4).add(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="no codes at all"):
        CodeCounter((8,)).summary()


def test_effective_dimensions_counts_axes_that_vary() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(4000, 12))
    assert effective_dimensions(flat) == pytest.approx(12, rel=0.02)
    turned = rng.normal(size=(4000, 3)) @ np.linalg.qr(rng.normal(size=(12, 12)))[0][:3] + 4
    assert effective_dimensions(turned) == pytest.approx(3, rel=0.02)
    assert effective_dimensions(np.full((50, 4), 3.0)) == 0
    assert latent_health(np.full((50, 4), 3.0), np.repeat(["a", "b"], 25)).collapsed
    assert not latent_health(flat, np.repeat(["a", "b"], 2000)).collapsed


def test_share_between_videos() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    scenes = rng.normal(size=(30, 5))[groups]
    assert between_group_share(rng.normal(size=(600, 5)), groups) < 0.02
    assert between_group_share(scenes + 0.01 * rng.normal(size=(600, 5)), groups) > 0.99
    assert between_group_share(scenes + rng.normal(size=(600, 5)), groups) == pytest.approx(0.5, abs=0.1)


def test_effective_rank_counts_directions() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 3))
    assert effective_rank(np.concatenate([x, np.zeros((4000, 5))], 1)) == pytest.approx(3, rel=0.02)
    assert effective_rank(x[:, :1] @ np.ones((1, 8))) == pytest.approx(1, rel=0.02)
