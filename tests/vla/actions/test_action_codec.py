"""Action codecs: masks, statistics per step, names, constants, JSON, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation as ScipyRotation

from corpora.episodes.parts import ActionPart, Representation, RotationKind
from tests.builders.actions import (
    REPRESENTATIONS,
    ROTATIONS,
    H,
    fitted,
    hand_data,
    hand_parts,
    numbers,
    same_chunks,
    simple,
)
from vla.actions.chunks import represent
from vla.actions.layout import check_parts, named, one_part
from vla.actions.rotations import to_matrix
from vla.actions.space import ActionSpace


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.parametrize("filling", [np.nan, 0.0, 1e6])
def test_masked_steps_change_nothing(kind: RotationKind, representation: Representation, filling: float) -> None:
    """Whatever pads a chunk past its episode's end (a quaternion of zeros, NaN): same statistics, and encoded as 0."""
    parts = hand_parts(kind, representation)
    states, actions, (start, chunk, mask) = hand_data(parts)
    padded = np.where(mask[..., None], chunk, np.float32(filling))
    one, two = (fitted((states, actions, (start, c, mask)), parts) for c in (chunk, padded))
    assert one.to_json() == two.to_json()
    encoded = one.encode_action(start, padded, mask)
    assert (encoded[~mask] == 0).all()
    np.testing.assert_array_equal(encoded[mask], one.encode_action(start, chunk)[mask])
    decoded = one.decode_action(start, encoded)
    assert np.isfinite(decoded).all()
    known = np.where(mask[..., None], decoded, chunk)
    same_chunks(parts, known, chunk)


def test_nan_that_no_mask_hides_is_an_error() -> None:
    parts = hand_parts("quaternion_xyzw", "relative")
    states, actions, (start, chunk, mask) = hand_data(parts)
    space = fitted((states, actions, (start, chunk, mask)), parts)
    chunk[3, 2, list(named(parts, "wrist").dims)] = 0
    with pytest.raises(ValueError, match=r"no rotation, in wrist\.r11"):
        space.encode_action(start, chunk)
    start[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"NaN, infinite numbers or no rotation, in state\.0:"):
        space.encode_state(start)


def test_a_motion_in_the_hands_frame_does_not_depend_on_where_the_hand_points() -> None:
    """Turn and shift the whole scene: what is relative to the hand stays, what is absolute does not."""
    parts = hand_parts("quaternion_xyzw", "relative")
    _, _, (start, chunk, _) = hand_data(parts, count=10)
    world = ScipyRotation.random(rng=5)
    moved_start, moved = start.astype(np.float64), chunk.astype(np.float64)
    place, wrist = named(parts, "place"), named(parts, "wrist")
    for array, position, turn in ((moved_start, place.state_dims, wrist.state_dims), (moved, place.dims, wrist.dims)):
        assert position is not None and turn is not None
        flat = array.reshape(-1, array.shape[-1])
        flat[:, list(position)] = world.apply(flat[:, list(position)]) + np.array([1, 2, 3])
        flat[:, list(turn)] = (world * ScipyRotation.from_quat(flat[:, list(turn)])).as_quat()
    for part in (place, wrist):
        np.testing.assert_allclose(
            represent(parts, part, moved_start, moved), represent(parts, part, start, chunk), atol=1e-6
        )
    assert np.abs(moved - chunk).max() > 1


def test_statistics_per_step_refuse_another_horizon() -> None:
    space = simple(numbers(3, 3), "relative", per_step=True)
    assert space.horizon == H
    _, _, (start, chunk, _) = numbers(3, 3, seed=1)
    for wrong in (chunk[:, :-1], np.concatenate([chunk, chunk], 1)):
        with pytest.raises(ValueError, match=rf"shape \[80, {wrong.shape[1]}, 3\]: \[\.\.\., {H}, 3\] is wanted"):
            space.encode_action(start, wrong)
        with pytest.raises(ValueError, match=rf"\[\.\.\., {H}, 3\] is wanted"):
            space.decode_action(start, wrong)
    free = simple(numbers(3, 3), "relative")
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
        space = simple(data, "relative", "mean_std", per_step=per_step)
        spread[per_step] = space.encode_action(start, chunk).std((0, 2))
    np.testing.assert_allclose(spread[True], np.ones(H), atol=1e-5)
    assert spread[False][-1] > 2 * spread[False][0]


@pytest.mark.parametrize("kind", ROTATIONS)
def test_json_is_lossless(kind: RotationKind) -> None:
    parts = hand_parts(kind, "delta", per_step=True)
    data = hand_data(parts)
    data[2][1][..., 0] = 0.25
    space = fitted(data, parts)
    again = ActionSpace.from_json(json.loads(json.dumps(space.to_json(), allow_nan=False)))
    assert again.parts == parts
    assert again.to_json() == space.to_json()
    start, chunk, _ = data[2]
    encoded = space.encode_action(start, chunk)
    np.testing.assert_array_equal(again.encode_action(start, chunk), encoded)
    np.testing.assert_array_equal(again.decode_action(start, encoded), space.decode_action(start, encoded))
    np.testing.assert_array_equal(again.encode_state(start), space.encode_state(start))


def test_states_have_their_rotations_as_6d_in_place() -> None:
    parts = hand_parts("quaternion_wxyz", "relative")
    space = fitted(hand_data(parts), parts)
    space = dataclasses.replace(space, state=dataclasses.replace(space.state, clip=0))
    assert space.encoded_state_names == (
        "state.0", "state.1", "state.2", "state.3", "state.4.r11", "state.4.r12", "state.4.r13", "state.4.r21", "state.4.r22",
        "state.4.r23",
    )  # fmt: skip
    _, _, (start, _, _) = hand_data(parts, seed=4)
    flipped = start.copy()
    flipped[:, 4:] *= -1  # -q is the same rotation, so it is the same state
    np.testing.assert_allclose(space.encode_state(start), space.encode_state(flipped), atol=1e-6)
    raw = space.state.decode(space.encode_state(start))
    np.testing.assert_allclose(raw[:, :4], start[:, :4], atol=1e-5)
    matrix = ScipyRotation.from_quat(start[:, [5, 6, 7, 4]]).as_matrix()
    np.testing.assert_allclose(raw[:, 4:], matrix[:, :2].reshape(-1, 6), atol=1e-5)


def test_names_follow_the_encoded_order() -> None:
    parts = hand_parts("euler_xyz", "absolute")
    space = fitted(hand_data(parts), parts)
    wrist = tuple(f"wrist.{entry}" for entry in ("r11", "r12", "r13", "r21", "r22", "r23"))
    assert space.encoded_action_names == ("place.0", "place.1", "place.2", *wrist, "gripper.0")
    assert space.action_names == ("gripper.0", "wrist.0", "wrist.1", "wrist.2", "place.0", "place.1", "place.2")
    called = simple(numbers(1, 2), state_names=("angle",), action_names=("left", "right"))
    assert called.encoded_action_names == called.action_names == ("left", "right")


def test_constants_are_named_and_decode_to_their_value() -> None:
    """A wrist that turns about z alone leaves zeros in its matrix, and float32 leaves noise in the zeros."""
    parts = hand_parts("quaternion_xyzw", "absolute")
    states, actions, chunks = hand_data(parts)
    angle = np.random.default_rng(0).uniform(-1, 1, size=len(actions))
    turns = ScipyRotation.from_rotvec(angle[:, None] * [0, 0, 1]).as_quat()
    turns[:, :2] += 3e-8 * np.random.default_rng(1).normal(size=(len(turns), 2))
    actions[:, list(named(parts, "wrist").dims)] = turns
    actions[:, 0] = 0.7
    states[:, 3] = 2
    space = fitted((states, actions, chunks), parts)
    assert space.constant == ("state: state.3", "action: wrist.r13", "action: wrist.r23", "action: gripper.0")
    wild = np.random.default_rng(1).normal(size=(2, H, space.encoded_action_dim)).astype(np.float32)
    decoded = space.decode_action(None, wild)
    assert (decoded[..., 0] == np.float32(0.7)).all()
    about_z = to_matrix("quaternion_xyzw", decoded[..., list(named(parts, "wrist").dims)])
    np.testing.assert_allclose(about_z[..., 2, 2], 1, atol=1e-6)


def test_any_leading_axes_and_torch_tensors() -> None:
    parts = hand_parts("axis_angle", "delta")
    space = fitted(hand_data(parts), parts)
    _, _, (start, chunk, mask) = hand_data(parts, count=12, seed=3)
    flat = space.encode_action(start, chunk, mask)
    shaped = space.encode_action(start.reshape(3, 4, -1), chunk.reshape(3, 4, H, -1), mask.reshape(3, 4, H))
    np.testing.assert_array_equal(shaped.reshape(flat.shape), flat)
    np.testing.assert_array_equal(space.encode_action(start[0], chunk[0], mask[0]), flat[0])
    alike = space.encode_action(start[0], chunk)  # one state for all chunks
    np.testing.assert_allclose(space.decode_action(start[0], alike)[..., 0], chunk[..., 0], atol=1e-5)
    tensor = torch.from_numpy(flat).requires_grad_()
    decoded = space.decode_action(torch.from_numpy(start), tensor)
    np.testing.assert_array_equal(decoded, space.decode_action(start, flat))
    np.testing.assert_array_equal(space.encode_state(torch.from_numpy(start)), space.encode_state(start))
    bf16 = space.decode_action(start, tensor.bfloat16())
    np.testing.assert_allclose(bf16[:, 0, 0], decoded[:, 0, 0], atol=0.05)


def test_a_robot_without_a_state() -> None:
    """Latent actions: nothing but numbers."""
    _, actions, (_, chunk, mask) = numbers(1, 4)
    parts = (ActionPart("latent", range(4), clip=0),)
    space = ActionSpace.fit(None, chunk, mask, parts=parts, frames=(None, actions))
    assert (space.encoded_state_dim, space.encoded_action_dim) == (0, 4)
    np.testing.assert_allclose(space.decode_action(None, space.encode_action(None, chunk)), chunk, atol=1e-5)
    assert space.encode_state(np.zeros((3, 0))).shape == (3, 0)
    again = ActionSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again.encode_state(np.zeros((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("representation", ["delta", "relative"])
def test_motion_without_a_state_is_refused_by_name(representation: Representation) -> None:
    with pytest.raises(ValueError, match=f"action part 'arm' is {representation}, but the state does not hold it"):
        ActionPart("arm", (0, 1), representation=representation)
    with pytest.raises(ValueError, match=f"action part 'action' is {representation}"):
        one_part(39, 4, representation)  # nothing says which of the 39 numbers
    space = simple(numbers(2, 2), representation)
    chunk = np.zeros((1, H, 2))
    for call in (space.encode_action, space.decode_action):
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
        (lambda: check_parts((part("a", (0, 1)), part("b", (1, 2))), 1, 3), r"cover the dimensions \[0, 1, 1, 2\]"),
        (lambda: check_parts((part("a", (0, 1)),), 1, 3), "each of 0 to 2 belongs to exactly one part"),
        (lambda: check_parts((part("a", (0,)), part("a", (1,))), 1, 2), "each name is given once"),
        (lambda: check_parts((part("a", (0,), (2,)),), 2, 1), "the state has dimensions 0 to 1"),
        (lambda: check_parts((part("a", (0, 1, 2), (0, 1, 2), "delta", frame="hand"),), 3, 3), "frame 'hand' is no part"),
        (
            lambda: check_parts(
                (part("a", (0, 1, 2), (0, 1, 2), rotation="euler_xyz"), part("b", (3, 4, 5), (1, 2, 3), rotation="euler_xyz")), 4, 6
            ),
            "overlap",
        ),
        (lambda: simple(numbers(2, 2), action_names=("x",)), "1 action_names for 2 dimensions"),
    ]  # fmt: skip
    for make, said in cases:
        with pytest.raises(ValueError, match=said):
            make()


def test_data_that_do_not_fit_are_refused() -> None:
    states, actions, (start, chunk, mask) = numbers(2, 3)
    parts = one_part(2, 3)
    with pytest.raises(ValueError, match=r"states of shape \[240, 1\]: \[any, 2\] is wanted"):
        fitted((states[:, :1], actions, (start, chunk, mask)), parts)
    with pytest.raises(ValueError, match=r"mask of chunks of shape \[80, 3\]"):
        fitted((states, actions, (start, chunk, mask[:, :3])), parts)
    with pytest.raises(ValueError, match=r"states of chunks of shape \[9, 2\]"):
        fitted((states, actions, (start[:9], chunk, mask)), parts)
    per_step = (dataclasses.replace(parts[0], per_step=True),)
    short = mask.copy()
    short[:, 5:] = False
    with pytest.raises(
        ValueError, match="action part 'action': step 5, dimension 0: all 80 values are masked or NaN, .* shorten"
    ):
        fitted((states, actions, (start, chunk, short)), per_step)
    space = fitted((states, actions, (start, chunk, mask)), parts)
    with pytest.raises(ValueError, match=r"encoded action chunk of shape \[80, 7, 32\]: \[\.\.\., any, 3\] is wanted"):
        space.decode_action(start, np.zeros((80, H, 32)))
    with pytest.raises(ValueError, match=r"state of shape \[\]"):
        space.encode_state(np.float32(0))


def test_a_checkpoint_that_is_none_is_refused() -> None:
    good = simple(numbers(2, 3)).to_json()
    other = simple(numbers(2, 2)).to_json()
    with pytest.raises(ValueError, match="format 99: this version of giza reads 2.*train the policy"):
        ActionSpace.from_json({**good, "format": 99})
    with pytest.raises(ValueError, match="without state"):
        ActionSpace.from_json({k: v for k, v in good.items() if k != "state"})
    with pytest.raises(ValueError, match="without statistics of action"):
        ActionSpace.from_json({**good, "actions": {}})
    with pytest.raises(ValueError, match="wants 3 dimensions, .* of 2 dimensions, .*another robot"):
        ActionSpace.from_json({**good, "actions": other["actions"]})
    with pytest.raises(ValueError, match="unknown fields .'colour'"):
        ActionSpace.from_json({**good, "spec": {**good["spec"], "colour": 1}})
    with pytest.raises(ValueError, match="without .'action_dim'"):
        ActionSpace.from_json({**good, "spec": {k: v for k, v in good["spec"].items() if k != "action_dim"}})
