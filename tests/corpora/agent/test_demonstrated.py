"""Actions by the nearest moment of a demonstration, in a world where something is pressed at one place and not at another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.agent.demonstrated import Demonstrated, Moments
from corpora.agent.motion import SHARES

COURSE = 3 * len(SHARES)


def moments(seed: int, episodes: int = 3, rows: int = 40, *, told: bool = True) -> Moments:
    """A tool that rests anywhere along 20 cm; its command is full in the second half. Not `told`: the command is random."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 0.2, episodes * rows)
    position = np.stack([place, 0 * place, 0 * place], 1)
    course = 1e-3 * rng.normal(size=(len(place), COURSE))
    full = place > 0.1 if told else rng.random(len(place)) > 0.5
    chunks = np.where(full, 1.0, -1.0).astype(np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    return Moments(position, course, chunks, np.repeat(np.arange(episodes), rows))


def slowly(known: Moments, position: NDArray[np.float64], course: NDArray[np.float64]) -> tuple[int, float]:
    away = [
        np.sqrt(np.sum((place - position) ** 2) + np.sum((moved - course) ** 2) / len(SHARES))
        for place, moved in zip(known.position_m, known.course_m, strict=True)
    ]
    return int(np.argmin(away)), float(np.min(away))


def test_the_nearest_moment_is_that_of_a_slow_loop() -> None:
    known, asked = moments(0), moments(1, 1)
    rows, distance = known.nearest(asked.position_m, asked.course_m)
    for k in range(len(rows)):
        row, away = slowly(known, asked.position_m[k], asked.course_m[k])
        assert rows[k] == row and distance[k] == pytest.approx(away)


def test_what_is_done_is_that_of_the_same_task_where_it_is_near_enough() -> None:
    press = moments(2, 1)
    shown = Demonstrated.fit({"learn": moments(0)}, {"press": press}, least_m=0.05)
    assert 0 < shown.within_m <= 0.2
    asked = moments(3, 1)
    near, chunks = shown.at("press", asked.position_m, asked.course_m)
    rows, distance = press.nearest(asked.position_m, asked.course_m)
    assert np.array_equal(near, distance <= shown.within_m)
    assert np.array_equal(chunks, press.chunks[rows[near]])
    assert not shown.at("another", asked.position_m, asked.course_m)[0].any()
    far, none = shown.at("press", asked.position_m + 1.0, asked.course_m)
    assert not far.any() and not len(none)
    asked.position_m[0], asked.course_m[1] = np.nan, np.nan
    assert not shown.at("press", asked.position_m, asked.course_m)[0][:2].any()


def test_how_near_is_near_enough_is_where_moments_begin_to_tell_less_than_half() -> None:
    """Those within a centimetre tell all of it, those beyond the contrary."""
    rng = np.random.default_rng(0)
    signs = np.array([1, -1, 1, -1, 1, 1, 1, 1], np.float32)
    place = np.repeat(np.arange(8) * 0.1, 10)
    position = np.stack([place + 0.001 * rng.random(80), 0 * place, 0 * place], 1)
    chunks = np.repeat(signs, 10)[:, None, None] * np.ones((1, 2, 1), np.float32)
    one = Moments(position, np.zeros((80, COURSE)), chunks, np.zeros(80, np.int64))
    gone = place > 0.35  # the other episode was never there
    other = Moments(position[~gone] + 0.002, one.course_m[~gone], chunks[~gone], np.ones((~gone).sum(), np.int64))
    both = Moments(*(np.concatenate([getattr(one, n), getattr(other, n)]) for n in vars(one)))
    assert 0 < Demonstrated.fit({"a": both}, {}, least_m=0.05).within_m < 0.1


@pytest.mark.parametrize(
    "learned",
    [{}, {"a": moments(0, 1)}, {"a": moments(0, told=False)}],
    ids=["nothing known", "one episode", "no two agree"],
)
def test_where_it_is_not_known_how_far_one_tells_of_another_nothing_is_told(learned: dict[str, Moments]) -> None:
    shown = Demonstrated.fit(learned, {"press": moments(2, 1)}, least_m=0.05)
    asked = moments(3, 1)
    assert not shown.within_m and not shown.at("press", asked.position_m, asked.course_m)[0].any()


def test_fast_motions_do_not_say_how_far_to_look() -> None:
    fast = moments(0, told=False)
    moved = Moments(fast.position_m, fast.course_m + 1.0, fast.chunks, fast.episode)
    assert (
        Demonstrated.fit({"a": moments(0), "b": moved}, {}, least_m=0.05).within_m
        == Demonstrated.fit({"a": moments(0)}, {}, least_m=0.05).within_m
    )
