"""Rows at the beginning of an episode in which nothing moves yet: a policy that learns from them learns to stand still."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.episode import Episodes

_SHARE = 1e-3
"""Of a dimension's range over the dataset: less is no motion."""
_JITTER = 3.0
"""Standard deviations of its noise: less is no motion."""
_NOISE_RANGE = 10.0
"""Standard deviations: the range of a dimension that is nothing but noise, in as many rows as datasets have."""
_MEDIAN_TO_STD = 0.6745 * 6**0.5
"""Median size of the second difference of white noise of standard deviation 1."""


def with_idle(episodes: Episodes) -> Episodes:
    """The same, with `Episode.idle` counted. Row i is idle where up to it no action differs from the first one, and after it
    the state is still the first one: it takes both to stand still. Without states or actions, and of an episode in which
    nothing ever moves, no row is."""
    if episodes.state is None or episodes.action is None:
        return episodes
    at_rest = (_at_rest(episodes, episodes.action), _at_rest(episodes, episodes.state))
    counted = []
    for episode in episodes.episodes:
        action, state = (values[episode.start : episode.stop] for values in at_rest)
        idle = action[:-1] & state[1:]
        counted.append(dataclasses.replace(episode, idle=0 if idle.all() else int(np.argmin(idle))))
    return dataclasses.replace(episodes, episodes=counted)


def _at_rest(episodes: Episodes, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[R], whether a row's values [R, D] are still those of its episode's first row. A dimension moves where it leaves its
    noise, which second differences show: they take out what is smooth. One that is nothing but noise never moves."""
    runs = [values[episode.start : episode.stop].astype(np.float64) for episode in episodes.episodes]
    bends = np.concatenate([np.zeros((1, values.shape[1])), *(np.abs(np.diff(run, 2, axis=0)) for run in runs)])
    noise, extent = np.median(bends, 0) / _MEDIAN_TO_STD, np.ptp(values, axis=0)
    reach = np.where(extent < _NOISE_RANGE * noise, np.inf, np.maximum(_SHARE * extent, _JITTER * noise))
    return np.concatenate([(np.abs(run - run[0]) <= reach).all(1) for run in runs])
