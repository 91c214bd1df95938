"""The linear base: against slow references, exact round trips, what is masked, constant or scarce, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.episodes.parts import Normalisation, Representation, RotationKind
from tests.builders.actions import (
    NORMALISATIONS,
    REPRESENTATIONS,
    ROTATIONS,
    H,
    hand_data,
    hand_spec,
    numbers,
    same_chunks,
)
from vla.actions.linear_base import PENALTIES, LinearBase, folds_of
from vla.actions.space import ActionCodec
from vla.actions.spec import ActionSpec


def linear_data(
    episodes: int, length: int, *, noise: float | NDArray[Any] = 0.1, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_], list[str]]:
    """States [M, 4], chunks [M, H, 3] that a matrix of each step makes of them, masks and episodes; tails are unknown."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(episodes * length, 4))
    truth = np.random.default_rng(99).normal(size=(H, 4, 3))
    chunks = np.einsum("md,hdk->mhk", states, truth) + noise * rng.normal(size=(len(states), H, 3))
    mask = np.tile(np.arange(length)[:, None] + np.arange(H) < length, (episodes, 1))
    return states, chunks, mask, [f"episode {i // length}" for i in range(len(states))]


def slow_ridge(x: NDArray[Any], y: NDArray[Any], penalty: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of standardised and then centred states, as a least-squares problem with further rows: slopes and both means."""
    if np.isinf(penalty):
        return np.zeros((x.shape[1], y.shape[1])), x.mean(0), y.mean(0)
    centred, wanted = x - x.mean(0), y - y.mean(0)
    rows = np.concatenate([centred, np.sqrt(penalty * len(x)) * np.eye(x.shape[1])])
    slopes = np.linalg.lstsq(rows, np.concatenate([wanted, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0]
    return slopes, x.mean(0), y.mean(0)


def test_it_is_the_ridge_of_a_slow_loop_with_the_penalty_of_least_held_out_error() -> None:
    states, chunks, mask, groups = linear_data(7, 12, noise=np.array([0.3, 3.0, 30.0]))
    base = LinearBase.fit(states, chunks, mask, groups)
    z = (states - states.mean(0)) / states.std(0)
    errors = []
    for penalty in PENALTIES:
        total = np.zeros(3)
        for fold in range(5):
            out = np.array([int(group.split()[1]) % 5 == fold for group in groups])
            for h in range(H):
                slopes, middle, mean = slow_ridge(z[mask[:, h] & ~out], chunks[mask[:, h] & ~out, h], penalty)
                held = mask[:, h] & out
                total += (((z[held] - middle) @ slopes + mean - chunks[held, h]) ** 2).sum(0)
        errors.append(total)
    assert base.penalty.tolist() == [PENALTIES[best] for best in np.argmin(errors, 0)]
    assert (base.penalty > PENALTIES[0]).all() and len(set(base.penalty.tolist())) > 1
    for dim, h in np.ndindex(3, H):
        slopes, middle, mean = slow_ridge(z[mask[:, h]], chunks[mask[:, h], h, dim : dim + 1], float(base.penalty[dim]))
        wanted = (z - middle) @ slopes + mean
        np.testing.assert_allclose(base.predict(states)[:, h, dim], wanted[:, 0], atol=1e-9)


def test_what_is_not_linear_gets_no_weights_and_what_is_gets_all() -> None:
    states, chunks, mask, groups = linear_data(10, 30, noise=1e-3)
    base = LinearBase.fit(states, chunks, mask, groups)
    new, truth, _, _ = linear_data(2, 20, noise=0.0, seed=1)
    inside = np.clip(new, base.low, base.high)
    residual = base.predict(inside) - np.einsum("md,hdk->mhk", inside, np.random.default_rng(99).normal(size=(H, 4, 3)))
    assert np.abs(residual).max() < 0.01 and np.abs(truth).max() > 1
    noise = np.random.default_rng(3).normal(size=chunks.shape)
    lost = LinearBase.fit(states, noise, mask, groups)
    assert (lost.penalty >= 1).all()  # what is left of slopes is small beside the noise
    assert np.abs(lost.predict(states) - noise.mean(0)).max() < 0.5


def test_whole_episodes_are_held_out_together() -> None:
    groups = ["b", "a", "b", "c", "a", "d", "e", "f", "g"]
    folds = folds_of(len(groups), groups)
    assert all(len(set(folds[np.array(groups) == name])) == 1 for name in set(groups)) and set(folds) == set(range(5))
    np.testing.assert_array_equal(folds_of(6, ["one"] * 6), [0, 0, 1, 2, 3, 4])  # stretches of a single episode
    np.testing.assert_array_equal(folds_of(2), [0, 1])
    with pytest.raises(ValueError, match="2 groups for 3 chunks"):
        folds_of(3, ["a", "b"])


@pytest.mark.parametrize("filling", [np.nan, 1e6])
def test_what_is_past_the_end_changes_nothing(filling: float) -> None:
    states, chunks, mask, groups = linear_data(4, 9)
    padded = np.where(mask[..., None], chunks, filling)
    one, two = (LinearBase.fit(states, c, mask, groups) for c in (chunks, padded))
    assert one.to_json() == two.to_json()
    mask[:, -2:] = False  # no episode is long enough for the last two steps: they are guessed as the one before
    short = LinearBase.fit(states, chunks, mask, groups)
    guess = short.predict(states)
    np.testing.assert_allclose(guess[:, -1], guess[:, -3], atol=1e-12)
    assert np.abs(guess[:, -3] - guess[:, -4]).max() > 0.1


def test_scarce_and_degenerate_states() -> None:
    """Fewer chunks than dimensions, one chunk, columns that repeat or stand still: finite, and never far from the data."""
    states, chunks, mask, groups = linear_data(3, 8)
    wide = np.concatenate([states, states, 2 * states[:, :1], np.full((len(states), 3), 0.3)], 1)
    base = LinearBase.fit(wide, chunks, mask, groups)
    thin = LinearBase.fit(states, chunks, mask, groups)
    np.testing.assert_allclose(base.predict(wide), thin.predict(states), atol=0.1)
    assert (base.weights[:, -3:] == 0).all()
    single = LinearBase.fit(wide[:1], chunks[:1], mask[:1])
    assert (single.penalty == np.inf).all()
    np.testing.assert_allclose(single.predict(wide)[0, mask[0]], chunks[0, mask[0]])
    np.testing.assert_array_equal(single.predict(wide)[0], single.predict(wide)[5])
    few = LinearBase.fit(wide[:5], chunks[:5], mask[:5])
    assert np.abs(few.predict(wide)).max() < 10 * np.abs(chunks).max()
    with pytest.raises(ValueError, match="nothing is known of any of 24 chunks"):
        LinearBase.fit(states, chunks, np.zeros_like(mask), groups)


def test_beyond_the_data_the_guess_stays() -> None:
    states, chunks, mask, groups = linear_data(4, 20)
    base = LinearBase.fit(states, chunks, mask, groups)
    far = states[:1].copy()
    far[:, 0] = 1e6
    edge = far.copy()
    edge[:, 0] = states[:, 0].max()
    np.testing.assert_array_equal(base.predict(far), base.predict(edge))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("per_step", [False, True])
def test_numbers_come_back(representation: Representation, normalisation: Normalisation, per_step: bool) -> None:
    spec = ActionSpec.simple(5, 5, representation, normalisation, per_step=per_step)
    data = numbers(5, 5)
    codec = ActionCodec.fit(*data, dataclasses.replace(spec, linear_base=True))
    start, chunk, mask = data[2]
    new = numbers(5, 5, seed=1)[2]
    for state, wanted in ((start, chunk), (new[0], new[1])):
        np.testing.assert_allclose(codec.decode_action(state, codec.encode_action(state, wanted)), wanted, atol=2e-5)
    assert (codec.encode_action(start, chunk, mask)[~mask] == 0).all()
    assert codec.horizon == H
    with pytest.raises(ValueError, match=rf"\[\.\.\., {H}, 5\] is wanted"):
        codec.encode_action(start, chunk[:, :-1])
    for wrong in (lambda: codec.encode_action(None, chunk), lambda: codec.decode_action(None, chunk)):
        with pytest.raises(ValueError, match="linear base: they need the state|it needs the state"):
            wrong()


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("kind", ROTATIONS)
def test_rotations_come_back(kind: RotationKind, representation: Representation) -> None:
    spec = dataclasses.replace(hand_spec(kind, representation), linear_base=True)
    data = hand_data(spec)
    codec = ActionCodec.fit(*data, spec)
    start, chunk, _ = data[2]
    same_chunks(spec, codec.decode_action(start, codec.encode_action(start, chunk)), chunk, atol=2e-5)


def test_a_constant_and_a_number_that_the_state_tells_teach_the_policy_nothing() -> None:
    """Whatever else the action holds: number 0 is noise, which has a penalty of its own."""
    states, actions, (start, chunk, mask) = numbers(3, 3)
    chunk[..., 1] = np.float32(0.3)
    chunk[..., 2] = 0.5 * start[:, None, 0] + 0.25
    actions[:, 1] = np.float32(0.3)
    codec = ActionCodec.fit(
        states, actions, (start, chunk, mask), dataclasses.replace(ActionSpec.simple(3, 3), linear_base=True)
    )
    assert codec.constant == ("action: action.1", "action: action.2")
    decoded = codec.decode_action(start, 0 * codec.encode_action(start, chunk))
    assert (decoded[..., 1] == np.float32(0.3)).all()
    np.testing.assert_allclose(decoded[..., 2], chunk[..., 2], atol=1e-6)


def test_what_is_left_is_small_where_the_state_tells_much() -> None:
    """The encoded chunk of a linear robot is its noise, which has the statistics of its own."""
    states, chunks, mask, groups = linear_data(10, 30, noise=0.01)
    spec = ActionSpec.simple(4, 3, normalisation="mean_std")
    codec = ActionCodec.fit(
        states, chunks[mask], (states, chunks, mask), dataclasses.replace(spec, linear_base=True), groups=groups
    )
    plain = ActionCodec.fit(states, chunks[mask], (states, chunks, mask), spec)
    assert (codec.actions["action"].scale < 0.02 * plain.actions["action"].scale).all()
    encoded = codec.encode_action(states, chunks)[mask]
    np.testing.assert_allclose(encoded.std(0), 1, atol=0.05)


def test_the_checkpoint_restores_the_same_bits_and_refuses_another_robots() -> None:
    data = numbers(3, 2)
    codec = ActionCodec.fit(*data, dataclasses.replace(ActionSpec.simple(3, 2), linear_base=True))
    text = json.dumps(codec.to_json(), allow_nan=False)
    back = ActionCodec.from_json(json.loads(text))
    start, chunk, _ = data[2]
    np.testing.assert_array_equal(back.encode_action(start, chunk), codec.encode_action(start, chunk))
    assert json.dumps(back.to_json()) == text
    lacking = json.loads(text)
    lacking["linear_base"] = None
    with pytest.raises(ValueError, match="a codec has a base where its spec says so"):
        ActionCodec.from_json(lacking)
    for name, value, said in (
        ("weights", codec.base.weights[..., :1].tolist(), "belongs to another robot|damaged"),  # type: ignore[union-attr]
        ("low", [0.0], r"low of shape \[1\] beside weights"),
        ("offset", None, "offset of shape"),
    ):
        damaged = json.loads(text)
        damaged["linear_base"][name] = value
        with pytest.raises(ValueError, match=said):
            ActionCodec.from_json(damaged)
    del (damaged := json.loads(text))["linear_base"]["high"]
    with pytest.raises(ValueError, match="linear base without high"):
        ActionCodec.from_json(damaged)
    older = ActionCodec.fit(*data, ActionSpec.simple(3, 2)).to_json()
    del older["linear_base"], older["spec"]["linear_base"]  # as files were before there was one
    assert ActionCodec.from_json(older).base is None


def test_it_is_refused_where_there_is_no_state() -> None:
    with pytest.raises(ValueError, match="linear_base with 0 state dimensions.*choose a state, or do without"):
        dataclasses.replace(ActionSpec.simple(0, 3), linear_base=True)
    spec = dataclasses.replace(ActionSpec.simple(3, 3), linear_base=True)
    states, actions, (_, chunk, mask) = numbers(3, 3)
    with pytest.raises(ValueError, match="it needs the states of the chunks"):
        ActionCodec.fit(states, actions, (None, chunk, mask), spec)
