"""Action codecs: exact round trips, slow references, masks, statistics per step, what is refused."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as ScipyRotation

from vla.action_space import ActionCodec, ActionPart, ActionSpec
from vla.action_spec import Representation
from vla.normalisation import Normalisation
from vla.relative_chunks import represent
from vla.rotations import WIDTH, RotationKind, from_matrix, rotation_angle, to_matrix

H = 7
REPRESENTATIONS: list[Representation] = ["absolute", "delta", "relative"]
ROTATIONS: list[RotationKind] = ["quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "axis_angle"]
NORMALISATIONS: list[Normalisation] = ["min_max", "mean_std", "q01_q99", "none"]

Data = tuple[
    NDArray[np.float32], NDArray[np.float32], tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
]


def numbers(state_dim: int, action_dim: int, *, count: int = 80, seed: int = 0) -> Data:
    """Random states and actions, and chunks whose ends are unknown now and then."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(3 * count, state_dim)).astype(np.float32)
    actions = rng.normal(size=(3 * count, action_dim)).astype(np.float32)
    start = rng.normal(size=(count, state_dim)).astype(np.float32)
    chunk = rng.normal(size=(count, H, action_dim)).astype(np.float32)
    mask = np.arange(H) < rng.integers(2, 2 * H, size=count)[:, None]
    return states, actions, (start, chunk, mask)


def hand_spec(
    kind: RotationKind,
    representation: Representation,
    *,
    per_step: bool = False,
    state_kind: RotationKind | None = None,
) -> ActionSpec:
    """Action: gripper, rotation, position; state: position, something, rotation. The position turns with the hand."""
    width, state_width = WIDTH[kind], WIDTH[state_kind or kind]
    turn, place = tuple(range(1, 1 + width)), tuple(range(1 + width, 4 + width))
    framed = "" if representation == "absolute" else "wrist"
    return ActionSpec(
        4 + state_width,
        4 + width,
        (
            ActionPart("place", place, (0, 1, 2), representation, frame=framed, per_step=per_step),
            ActionPart(
                "wrist", turn, tuple(range(4, 4 + state_width)), representation, kind, state_kind, per_step=per_step,
                normalisation="mean_std",
            ),
            ActionPart("gripper", (0,), normalisation="min_max"),
        ),
    )  # fmt: skip


def hand_data(spec: ActionSpec, *, count: int = 80, seed: int = 0) -> Data:
    """As `numbers`, but where a rotation is, any rotation stands in its canonical form."""
    states, actions, (start, chunk, mask) = numbers(spec.state_dim, spec.action_dim, count=count, seed=seed)
    wrist = spec.part("wrist")
    for i, (array, dims, kind) in enumerate(
        (
            (states, wrist.state_dims, wrist.rotation_of_state),
            (actions, wrist.dims, wrist.rotation),
            (start, wrist.state_dims, wrist.rotation_of_state),
            (chunk, wrist.dims, wrist.rotation),
        )
    ):
        assert dims is not None
        size = int(np.prod(array.shape[:-1]))
        turns = ScipyRotation.random(size, rng=seed + i).as_matrix().reshape(*array.shape[:-1], 3, 3)
        array[..., list(dims)] = from_matrix(kind, turns)
    return states, actions, (start, chunk, mask)


def same_chunks(spec: ActionSpec, first: NDArray[np.float32], second: NDArray[np.float32], atol: float = 1e-5) -> None:
    """Numbers to `atol`; rotations as rotations, in radians."""
    for part in spec.parts:
        a, b = first[..., list(part.dims)], second[..., list(part.dims)]
        if part.rotation == "none":
            np.testing.assert_allclose(a, b, atol=atol)
        else:
            assert rotation_angle(to_matrix(part.rotation, a), to_matrix(part.rotation, b)).max() < atol


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("representation", "normalisation"), list(itertools.product(REPRESENTATIONS, NORMALISATIONS)))
def test_numbers_come_back(representation: Representation, normalisation: Normalisation, per_step: bool) -> None:
    spec = ActionSpec.simple(5, 5, representation, normalisation, per_step=per_step)
    codec = ActionCodec.fit(*numbers(5, 5), spec)
    _, _, (start, chunk, _) = numbers(5, 5, seed=9)
    encoded = codec.encode_action(start, chunk)
    assert encoded.shape == (80, H, 5)
    assert encoded.dtype == np.float32
    decoded = codec.decode_action(start, encoded)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, chunk, atol=1e-5)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("kind", "representation"), list(itertools.product(ROTATIONS, REPRESENTATIONS)))
def test_hands_come_back(kind: RotationKind, representation: Representation, per_step: bool) -> None:
    spec = hand_spec(kind, representation, per_step=per_step)
    codec = ActionCodec.fit(*hand_data(spec), spec)
    _, _, (start, chunk, _) = hand_data(spec, seed=9)
    encoded = codec.encode_action(start, chunk)
    assert encoded.shape == (80, H, codec.action_dim)
    assert codec.action_dim == 3 + 6 + 1
    same_chunks(spec, codec.decode_action(start, encoded), chunk)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_state_and_action_may_write_a_rotation_differently(representation: Representation) -> None:
    spec = hand_spec("axis_angle", representation, state_kind="quaternion_wxyz")
    codec = ActionCodec.fit(*hand_data(spec), spec)
    _, _, (start, chunk, _) = hand_data(spec, seed=9)
    same_chunks(spec, codec.decode_action(start, codec.encode_action(start, chunk)), chunk)
    assert codec.state_dim == 4 + 6


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("kind", ROTATIONS)
def test_small_motions_come_back_number_by_number(kind: RotationKind, representation: Representation) -> None:
    """A chunk that goes on from the state keeps its form, here across pi and with the sign that canonical forms do not have."""
    spec = hand_spec(kind, representation)
    codec = ActionCodec.fit(*hand_data(spec), spec)
    wrist = spec.part("wrist")
    if kind == "euler_xyz":
        begin = np.array([3.1, 0.2, -3.12])
    elif kind == "axis_angle":
        begin = np.array([0.1, 3.1, -0.2])
    else:
        begin = -np.abs(np.array([0.5, 0.5, 0.5, 0.5]))
    path = begin + 0.06 * np.arange(H)[:, None] * np.array([1, 0.2, -1, 0.1])[: len(begin)]
    if kind.startswith("quaternion"):
        path /= np.linalg.norm(path, axis=-1, keepdims=True)
    _, _, (start, chunk, _) = hand_data(spec, seed=9)
    assert wrist.state_dims is not None
    start[:, list(wrist.state_dims)] = begin
    chunk[..., list(wrist.dims)] = path
    canonical = from_matrix(kind, to_matrix(kind, path))
    assert np.abs(canonical - path).max() > 0.9
    np.testing.assert_allclose(codec.decode_action(start, codec.encode_action(start, chunk)), chunk, atol=2e-5)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_wrist_that_turns_on_and_on_is_not_unwound(kind: RotationKind, representation: Representation) -> None:
    """A full turn and more within a chunk, in steps of 1.2 rad: each step goes on from the one before, not from the state."""
    spec = hand_spec(kind, representation)
    codec = ActionCodec.fit(*hand_data(spec), spec)
    wrist = spec.part("wrist")
    angle = 1.0 + 1.2 * np.arange(H + 1)
    if kind.startswith("quaternion"):
        half = np.stack([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], -1)
        path = half if kind == "quaternion_wxyz" else half[:, [1, 2, 3, 0]]
    else:
        path = angle[:, None] * np.array([0, 0, 1])
    _, _, (start, chunk, _) = hand_data(spec, seed=9)
    assert wrist.state_dims is not None
    start[:, list(wrist.state_dims)], chunk[..., list(wrist.dims)] = path[0], path[1:]
    np.testing.assert_allclose(codec.decode_action(start, codec.encode_action(start, chunk)), chunk, atol=2e-5)


def test_what_the_numbers_mean() -> None:
    """By hand: one joint at 1, commanded to 2, 4, 4."""
    chunk = np.array([[[2.0], [4.0], [4.0]]])
    start = np.array([[1.0]])
    for representation, expected in (("absolute", [2, 4, 4]), ("relative", [1, 3, 3]), ("delta", [1, 2, 0])):
        spec = ActionSpec.simple(1, 1, representation, "none")  # type: ignore[arg-type]
        codec = ActionCodec.fit(start, chunk[0], (start, chunk, np.ones((1, 3), bool)), spec)
        assert codec.encode_action(start, chunk)[0, :, 0].tolist() == expected


def slow_representation(
    spec: ActionSpec, name: str, start: NDArray[np.float32], chunk: NDArray[np.float32]
) -> NDArray[np.float64]:
    """One part, one chunk [H, Da], step by step with scipy's rotations."""

    def turn(kind: RotationKind, values: NDArray[np.float32]) -> ScipyRotation:
        if kind == "quaternion_wxyz":
            return ScipyRotation.from_quat(values[[1, 2, 3, 0]])
        if kind == "quaternion_xyzw":
            return ScipyRotation.from_quat(values)
        return ScipyRotation.from_euler("xyz", values) if kind == "euler_xyz" else ScipyRotation.from_rotvec(values)

    part = spec.part(name)
    rows = []
    for h in range(len(chunk)):
        own = part if part.rotation != "none" else spec.part(part.frame) if part.frame else None
        base_turn = None
        if own is not None and own.state_dims is not None:
            base_turn = turn(own.rotation_of_state, start[list(own.state_dims)])
            if part.representation == "delta" and h > 0:
                base_turn = turn(own.rotation, chunk[h - 1, list(own.dims)])
        if part.rotation != "none":
            action = turn(part.rotation, chunk[h, list(part.dims)])
            if part.representation != "absolute":
                assert base_turn is not None
                action = base_turn.inv() * action
            rows.append(action.as_matrix()[:2].reshape(6))
            continue
        value = chunk[h, list(part.dims)].astype(np.float64)
        if part.representation != "absolute":
            assert part.state_dims is not None
            before = (
                chunk[h - 1, list(part.dims)]
                if part.representation == "delta" and h > 0
                else start[list(part.state_dims)]
            )
            value = value - before
            if part.frame:
                assert base_turn is not None
                value = base_turn.inv().apply(value)
        rows.append(value)
    return np.array(rows)


@pytest.mark.parametrize(("kind", "representation"), list(itertools.product(ROTATIONS, REPRESENTATIONS)))
def test_representations_and_statistics_against_slow_loops(kind: RotationKind, representation: Representation) -> None:
    """Every part of every chunk one step at a time; then the mean and spread of every step over the chunks that reach it."""
    spec = hand_spec(kind, representation, per_step=True)
    states, actions, (start, chunk, mask) = hand_data(spec, count=25)
    codec = ActionCodec.fit(states, actions, (start, chunk, mask), spec)
    for name in ("place", "wrist"):
        part = spec.part(name)
        slow = np.stack([slow_representation(spec, name, s, c) for s, c in zip(start, chunk, strict=True)])
        np.testing.assert_allclose(represent(spec, part, start, chunk), slow, atol=1e-12)
        fitted = codec.actions[name].statistics
        for h, d in np.ndindex(H, part.width):
            seen = [float(slow[n, h, d]) for n in range(25) if mask[n, h]]
            mean = math.fsum(seen) / len(seen)
            assert fitted.count[h, d] == len(seen)
            assert fitted.mean[h, d] == pytest.approx(mean, abs=1e-12)
            assert fitted.std[h, d] == pytest.approx(
                math.sqrt(math.fsum((x - mean) ** 2 for x in seen) / len(seen)), abs=1e-9
            )
            assert (fitted.min[h, d], fitted.max[h, d]) == pytest.approx((min(seen), max(seen)), abs=1e-12)


@pytest.mark.parametrize("representation", ["delta", "relative"])
def test_statistics_over_all_steps_against_a_slow_loop(representation: Representation) -> None:
    spec = ActionSpec.simple(2, 2, representation)
    states, actions, (start, chunk, mask) = numbers(2, 2)
    mask[:, 3] &= np.arange(80) % 5 > 0  # holes: the delta after one is unknown as well
    fitted = ActionCodec.fit(states, actions, (start, chunk, mask), spec).actions["action"].statistics
    for d in range(2):
        seen = []
        for n in range(80):
            for h in range(H):
                if not mask[n, h] or (representation == "delta" and h > 0 and not mask[n, h - 1]):
                    continue
                before = chunk[n, h - 1, d] if representation == "delta" and h > 0 else start[n, d]
                seen.append(float(chunk[n, h, d]) - float(before))
        assert fitted.count[d] == len(seen)
        assert fitted.mean[d] == pytest.approx(sum(seen) / len(seen), abs=1e-12)
        assert (fitted.q01[d], fitted.q99[d]) == pytest.approx(tuple(np.quantile(seen, [0.01, 0.99])), abs=1e-12)


def test_absolute_statistics_are_of_frames_and_not_of_chunks() -> None:
    """Chunks overlap and repeat the ends of episodes: counted by chunk, some frames would weigh more."""
    states, actions, chunks = numbers(2, 3)
    codec = ActionCodec.fit(states, actions, chunks, ActionSpec.simple(2, 3))
    np.testing.assert_array_equal(codec.actions["action"].statistics.mean, actions.astype(np.float64).mean(0))
    np.testing.assert_array_equal(codec.state.statistics.max, states.max(0))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.parametrize("filling", [np.nan, 0.0, 1e6])
def test_masked_steps_change_nothing(kind: RotationKind, representation: Representation, filling: float) -> None:
    """Whatever pads a chunk past its episode's end (a quaternion of zeros, NaN): same statistics, and encoded as 0."""
    spec = hand_spec(kind, representation)
    states, actions, (start, chunk, mask) = hand_data(spec)
    padded = np.where(mask[..., None], chunk, np.float32(filling))
    one, two = (ActionCodec.fit(states, actions, (start, c, mask), spec) for c in (chunk, padded))
    assert one.to_json() == two.to_json()
    encoded = one.encode_action(start, padded, mask)
    assert (encoded[~mask] == 0).all()
    np.testing.assert_array_equal(encoded[mask], one.encode_action(start, chunk)[mask])
    decoded = one.decode_action(start, encoded)
    assert np.isfinite(decoded).all()
    known = np.where(mask[..., None], decoded, chunk)
    same_chunks(spec, known, chunk)


def test_nan_that_no_mask_hides_is_an_error() -> None:
    spec = hand_spec("quaternion_xyzw", "relative")
    states, actions, (start, chunk, mask) = hand_data(spec)
    codec = ActionCodec.fit(states, actions, (start, chunk, mask), spec)
    chunk[3, 2, list(spec.part("wrist").dims)] = 0
    with pytest.raises(ValueError, match=r"no rotation, in wrist\.r11"):
        codec.encode_action(start, chunk)
    start[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"NaN, infinite numbers or no rotation, in state\.0:"):
        codec.encode_state(start)


def test_a_motion_in_the_hands_frame_does_not_depend_on_where_the_hand_points() -> None:
    """Turn and shift the whole scene: what is relative to the hand stays, what is absolute does not."""
    spec = hand_spec("quaternion_xyzw", "relative")
    _, _, (start, chunk, _) = hand_data(spec, count=10)
    world = ScipyRotation.random(rng=5)
    moved_start, moved = start.astype(np.float64), chunk.astype(np.float64)
    place, wrist = spec.part("place"), spec.part("wrist")
    for array, position, turn in ((moved_start, place.state_dims, wrist.state_dims), (moved, place.dims, wrist.dims)):
        assert position is not None and turn is not None
        flat = array.reshape(-1, array.shape[-1])
        flat[:, list(position)] = world.apply(flat[:, list(position)]) + np.array([1, 2, 3])
        flat[:, list(turn)] = (world * ScipyRotation.from_quat(flat[:, list(turn)])).as_quat()
    for part in (place, wrist):
        np.testing.assert_allclose(
            represent(spec, part, moved_start, moved), represent(spec, part, start, chunk), atol=1e-6
        )
    assert np.abs(moved - chunk).max() > 1


def test_statistics_per_step_refuse_another_horizon() -> None:
    codec = ActionCodec.fit(*numbers(3, 3), ActionSpec.simple(3, 3, "relative", per_step=True))
    assert codec.horizon == H
    _, _, (start, chunk, _) = numbers(3, 3, seed=1)
    for wrong in (chunk[:, :-1], np.concatenate([chunk, chunk], 1)):
        with pytest.raises(ValueError, match=rf"shape \[80, {wrong.shape[1]}, 3\]: \[\.\.\., {H}, 3\] is wanted"):
            codec.encode_action(start, wrong)
        with pytest.raises(ValueError, match=rf"\[\.\.\., {H}, 3\] is wanted"):
            codec.decode_action(start, wrong)
    free = ActionCodec.fit(*numbers(3, 3), ActionSpec.simple(3, 3, "relative"))
    assert free.horizon is None
    shorter = free.decode_action(start, free.encode_action(start, chunk[:, :2]))
    np.testing.assert_allclose(shorter, chunk[:, :2], atol=1e-5)


def test_statistics_per_step_follow_the_growth_of_relative_actions() -> None:
    """A random walk from the state: at every step the encoded spread is 1, with statistics over all steps it grows."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(2000, 2))
    chunk = start[:, None] + np.cumsum(rng.normal(size=(2000, H, 2)), axis=1)
    data = (start, chunk[:, 0], (start, chunk, np.ones((2000, H), bool)))
    spread = {}
    for per_step in (False, True):
        codec = ActionCodec.fit(*data, ActionSpec.simple(2, 2, "relative", "mean_std", per_step=per_step))
        spread[per_step] = codec.encode_action(start, chunk).std((0, 2))
    np.testing.assert_allclose(spread[True], np.ones(H), atol=1e-5)
    assert spread[False][-1] > 2 * spread[False][0]


@pytest.mark.parametrize("kind", ROTATIONS)
def test_json_is_lossless(kind: RotationKind) -> None:
    spec = hand_spec(kind, "delta", per_step=True)
    data = hand_data(spec)
    data[2][1][..., 0] = 0.25
    codec = ActionCodec.fit(*data, spec)
    again = ActionCodec.from_json(json.loads(json.dumps(codec.to_json(), allow_nan=False)))
    assert again.spec == spec
    assert again.to_json() == codec.to_json()
    start, chunk, _ = data[2]
    encoded = codec.encode_action(start, chunk)
    np.testing.assert_array_equal(again.encode_action(start, chunk), encoded)
    np.testing.assert_array_equal(again.decode_action(start, encoded), codec.decode_action(start, encoded))
    np.testing.assert_array_equal(again.encode_state(start), codec.encode_state(start))


def test_states_have_their_rotations_as_6d_in_place() -> None:
    spec = hand_spec("quaternion_wxyz", "relative")
    codec = ActionCodec.fit(*hand_data(spec), spec)
    assert codec.state_names == (
        "state.0", "state.1", "state.2", "state.3", "state.4.r11", "state.4.r12", "state.4.r13", "state.4.r21", "state.4.r22",
        "state.4.r23",
    )  # fmt: skip
    _, _, (start, _, _) = hand_data(spec, seed=4)
    flipped = start.copy()
    flipped[:, 4:] *= -1  # -q is the same rotation, so it is the same state
    np.testing.assert_allclose(codec.encode_state(start), codec.encode_state(flipped), atol=1e-6)
    raw = codec.state.decode(codec.encode_state(start))
    np.testing.assert_allclose(raw[:, :4], start[:, :4], atol=1e-5)
    matrix = ScipyRotation.from_quat(start[:, [5, 6, 7, 4]]).as_matrix()
    np.testing.assert_allclose(raw[:, 4:], matrix[:, :2].reshape(-1, 6), atol=1e-5)


def test_names_follow_the_encoded_order() -> None:
    spec = hand_spec("euler_xyz", "absolute")
    codec = ActionCodec.fit(*hand_data(spec), spec)
    wrist = tuple(f"wrist.{entry}" for entry in ("r11", "r12", "r13", "r21", "r22", "r23"))
    assert codec.action_names == ("place.0", "place.1", "place.2", *wrist, "gripper.0")
    assert spec.names_of_action == ("gripper.0", "wrist.0", "wrist.1", "wrist.2", "place.0", "place.1", "place.2")
    named = ActionSpec.simple(1, 2, state_names=("angle",), action_names=("left", "right"))
    assert ActionCodec.fit(*numbers(1, 2), named).action_names == ("left", "right")


def test_constants_are_named_and_decode_to_their_value() -> None:
    """A wrist that turns about z alone leaves zeros in its matrix, and float32 leaves noise in the zeros."""
    spec = hand_spec("quaternion_xyzw", "absolute")
    states, actions, chunks = hand_data(spec)
    angle = np.random.default_rng(0).uniform(-1, 1, size=len(actions))
    turns = ScipyRotation.from_rotvec(angle[:, None] * [0, 0, 1]).as_quat()
    turns[:, :2] += 3e-8 * np.random.default_rng(1).normal(size=(len(turns), 2))
    actions[:, list(spec.part("wrist").dims)] = turns
    actions[:, 0] = 0.7
    states[:, 3] = 2
    codec = ActionCodec.fit(states, actions, chunks, spec)
    assert codec.constant == ("state: state.3", "action: wrist.r13", "action: wrist.r23", "action: gripper.0")
    wild = np.random.default_rng(1).normal(size=(2, H, codec.action_dim)).astype(np.float32)
    decoded = codec.decode_action(None, wild)
    assert (decoded[..., 0] == np.float32(0.7)).all()
    about_z = to_matrix("quaternion_xyzw", decoded[..., list(spec.part("wrist").dims)])
    np.testing.assert_allclose(about_z[..., 2, 2], 1, atol=1e-6)


def test_any_leading_axes_and_torch_tensors() -> None:
    spec = hand_spec("axis_angle", "delta")
    codec = ActionCodec.fit(*hand_data(spec), spec)
    _, _, (start, chunk, mask) = hand_data(spec, count=12, seed=3)
    flat = codec.encode_action(start, chunk, mask)
    shaped = codec.encode_action(start.reshape(3, 4, -1), chunk.reshape(3, 4, H, -1), mask.reshape(3, 4, H))
    np.testing.assert_array_equal(shaped.reshape(flat.shape), flat)
    np.testing.assert_array_equal(codec.encode_action(start[0], chunk[0], mask[0]), flat[0])
    alike = codec.encode_action(start[0], chunk)  # one state for all chunks
    np.testing.assert_allclose(codec.decode_action(start[0], alike)[..., 0], chunk[..., 0], atol=1e-5)
    tensor = torch.from_numpy(flat).requires_grad_()
    decoded = codec.decode_action(torch.from_numpy(start), tensor)
    np.testing.assert_array_equal(decoded, codec.decode_action(start, flat))
    np.testing.assert_array_equal(codec.encode_state(torch.from_numpy(start)), codec.encode_state(start))
    bf16 = codec.decode_action(start, tensor.bfloat16())
    np.testing.assert_allclose(bf16[:, 0, 0], decoded[:, 0, 0], atol=0.05)


def test_a_robot_without_a_state() -> None:
    """Latent actions: nothing but numbers."""
    _, actions, (_, chunk, mask) = numbers(1, 4)
    codec = ActionCodec.fit(None, actions, (None, chunk, mask), ActionSpec.simple(0, 4))
    assert (codec.state_dim, codec.action_dim) == (0, 4)
    np.testing.assert_allclose(codec.decode_action(None, codec.encode_action(None, chunk)), chunk, atol=1e-5)
    assert codec.encode_state(np.zeros((3, 0))).shape == (3, 0)
    again = ActionCodec.from_json(json.loads(json.dumps(codec.to_json())))
    assert again.encode_state(np.zeros((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("representation", ["delta", "relative"])
def test_motion_without_a_state_is_refused_by_name(representation: Representation) -> None:
    with pytest.raises(ValueError, match=f"action part 'arm' is {representation}, but the state does not hold it"):
        ActionPart("arm", (0, 1), representation=representation)
    with pytest.raises(ValueError, match=f"action part 'action' is {representation}"):
        ActionSpec.simple(39, 4, representation)  # nothing says which of the 39 numbers
    codec = ActionCodec.fit(*numbers(2, 2), ActionSpec.simple(2, 2, representation))
    chunk = np.zeros((1, H, 2))
    for call in (codec.encode_action, codec.decode_action):
        with pytest.raises(ValueError, match=f"action part 'action' is {representation}: it needs the state"):
            call(None, chunk)


def test_parts_that_do_not_fit_are_refused() -> None:
    part = ActionPart
    cases = [
        (lambda: part("a", (0, 1, 2), rotation="quaternion_xyzw"), "rotation 'quaternion_xyzw' has 4 numbers"),
        (lambda: part("a", (0, 1, 2), (0, 1), rotation="euler_xyz"), "rotation 'euler_xyz' has 3 numbers"),
        (lambda: part("a", (0, 1), (0,)), "2 dims, but 1 state_dims"),
        (lambda: part("a", (0,), representation="velocity"), "representation 'velocity' is none of"),  # type: ignore[arg-type]
        (lambda: part("a", (0,), normalisation="zscore"), "normalisation 'zscore'"),  # type: ignore[arg-type]
        (lambda: part("a", (0,), rotation="matrix"), "rotation 'matrix': choose one of"),  # type: ignore[arg-type]
        (lambda: part("a", ()), "at least one dimension"),
        (lambda: part("a", (0, 1, 2), (0, 1, 2), frame="wrist"), "is for a position"),
        (lambda: part("a", (0,), state_rotation="euler_xyz"), "beside rotation 'none'"),
        (lambda: ActionSpec(1, 3, (part("a", (0, 1)), part("b", (1, 2)))), r"cover the dimensions \[0, 1, 1, 2\]"),
        (lambda: ActionSpec(1, 3, (part("a", (0, 1)),)), "each of 0 to 2 belongs to exactly one part"),
        (lambda: ActionSpec(1, 2, (part("a", (0,)), part("a", (1,)))), "each name is given once"),
        (lambda: ActionSpec(2, 1, (part("a", (0,), (2,)),)), "the state has dimensions 0 to 1"),
        (lambda: ActionSpec(3, 3, (part("a", (0, 1, 2), (0, 1, 2), "delta", frame="hand"),)), "frame 'hand' is no part"),
        (
            lambda: ActionSpec(
                4, 6, (part("a", (0, 1, 2), (0, 1, 2), rotation="euler_xyz"), part("b", (3, 4, 5), (1, 2, 3), rotation="euler_xyz"))
            ),
            "overlap",
        ),
        (lambda: ActionSpec.simple(2, 2, action_names=("x",)), "1 action_names for 2 dimensions"),
    ]  # fmt: skip
    for make, said in cases:
        with pytest.raises(ValueError, match=said):
            make()


def test_data_that_do_not_fit_are_refused() -> None:
    states, actions, (start, chunk, mask) = numbers(2, 3)
    spec = ActionSpec.simple(2, 3)
    with pytest.raises(ValueError, match=r"states of shape \[240, 1\]: \[any, 2\] is wanted"):
        ActionCodec.fit(states[:, :1], actions, (start, chunk, mask), spec)
    with pytest.raises(ValueError, match=r"mask of chunks of shape \[80, 3\]"):
        ActionCodec.fit(states, actions, (start, chunk, mask[:, :3]), spec)
    with pytest.raises(ValueError, match=r"states of chunks of shape \[9, 2\]"):
        ActionCodec.fit(states, actions, (start[:9], chunk, mask), spec)
    per_step = ActionSpec.simple(2, 3, per_step=True)
    short = mask.copy()
    short[:, 5:] = False
    with pytest.raises(
        ValueError, match="action part 'action': step 5, dimension 0: all 80 values are masked or NaN, .* shorten"
    ):
        ActionCodec.fit(states, actions, (start, chunk, short), per_step)
    codec = ActionCodec.fit(states, actions, (start, chunk, mask), spec)
    with pytest.raises(ValueError, match=r"encoded action chunk of shape \[80, 7, 32\]: \[\.\.\., any, 3\] is wanted"):
        codec.decode_action(start, np.zeros((80, H, 32)))
    with pytest.raises(ValueError, match=r"state of shape \[\]"):
        codec.encode_state(np.float32(0))


def test_a_checkpoint_that_is_none_is_refused() -> None:
    good = ActionCodec.fit(*numbers(2, 3), ActionSpec.simple(2, 3)).to_json()
    other = ActionCodec.fit(*numbers(2, 2), ActionSpec.simple(2, 2)).to_json()
    with pytest.raises(ValueError, match="format 99: this version of giza reads 1"):
        ActionCodec.from_json({**good, "format": 99})
    with pytest.raises(ValueError, match="without state"):
        ActionCodec.from_json({k: v for k, v in good.items() if k != "state"})
    with pytest.raises(ValueError, match="without statistics of action"):
        ActionCodec.from_json({**good, "actions": {}})
    with pytest.raises(ValueError, match="wants 3 dimensions, .* of 2 dimensions, .*another robot"):
        ActionCodec.from_json({**good, "actions": other["actions"]})
    with pytest.raises(ValueError, match="unknown fields .'colour'"):
        ActionCodec.from_json({**good, "spec": {**good["spec"], "colour": 1}})
    with pytest.raises(ValueError, match="without .'action_dim'"):
        ActionCodec.from_json({**good, "spec": {k: v for k, v in good["spec"].items() if k != "action_dim"}})
