"""Usage and perplexity against their formulas, and the alarm that goes off on collapsed inputs."""

from __future__ import annotations

import math

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


def counted(codes: np.ndarray, size: int, codebook_index: tuple[int, ...] = ()) -> Codes:
    counter = CodeCounter((size,) * codes.shape[1], codebook_index)
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


def test_tokens_share_a_code_book() -> None:
    codes = np.stack([np.zeros(50, int), np.arange(50) % 4], 1)
    found = counted(codes, 8)
    shares = np.bincount(codes.ravel(), minlength=8) / codes.size
    want = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
    assert found.perplexity == pytest.approx(want)
    assert found.used == 4
    assert [position.used for position in found.positions] == [1, 4]
    assert found.combinations.distinct == 4
    assert found.combinations.possible == 64


def test_levels_have_books_of_their_own_and_the_worst_is_reported() -> None:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(8, size=400), np.zeros(400, int)] * 2, 1)
    found = counted(codes, 8, (0, 1, 0, 1))
    assert found.used == 1 and found.perplexity == pytest.approx(1) and found.collapsed
    assert found.books[0].perplexity > 7.8


@pytest.mark.parametrize(
    ("used", "collapsed", "thin"), [(16, False, False), (12, False, True), (3, True, True), (1, True, True)]
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
