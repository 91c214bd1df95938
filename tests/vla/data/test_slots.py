"""What a policy learns of a robot from its data: statistics of frames; and whether further data mean the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.episodes.parts import ActionPart
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_type import Actions
from corpora.mixture.labels import EmbodimentFacts
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.video.image import fit_square
from tests.builders.policies import teach, tiny_bc, tiny_policy
from tests.builders.robots import know_made_robots, made_robot
from vla.actions.space import ActionSpace
from vla.data.loader import TrainingDataset
from vla.data.open import open_mixture
from vla.data.slots import Slot, place
from vla.embodiment import Embodiment
from vla.policy import Observation, Policy


@pytest.fixture(autouse=True)
def _made(monkeypatch: pytest.MonkeyPatch) -> None:
    know_made_robots(monkeypatch)


def dataset(folder: Path, embodiment: str = "arm", **label: Any) -> DatasetSpec:
    return DatasetSpec(folder.name, "robot", EpisodesAt(folder), Actions(**label), embodiment=embodiment)


def learned(policy: Policy, tmp_path: Path, *specs: DatasetSpec, **options: Any) -> list[TrainingDataset]:
    """What `policy` trains on, and knows from then on; nothing is held out."""
    return open_mixture(MixtureSpec(specs), policy, held_out=0.0, cache=tmp_path / "cache", **options)


@pytest.mark.parametrize("horizon", [1, 16])
def test_statistics_are_those_of_frames_at_any_horizon(tmp_path: Path, horizon: int) -> None:
    """M8: 20 episodes of 100 rows, of which the first 4 are at -1: in overlapping chunks they come up less often, so that q01
    was 0 and -1, now that all is cut to the range, could not be commanded."""
    rows = np.concatenate([np.full(4, -1.0), np.linspace(0, 1, 96)])
    made = made_robot(tmp_path / "arm", np.tile(rows[:, None], (20, 1, 1)), np.tile(rows[:, None], (20, 1, 1)))
    policy = tiny_policy(horizon=horizon)
    learned(policy, tmp_path, dataset(made))
    space = policy.embodiments["arm"].action_space
    for found in (space.actions["action"].statistics, space.state.statistics):
        assert (found.q01[0], found.count[0]) == (-1, 2000)
        assert (found.mean[0], found.std[0]) == pytest.approx((rows.mean(), rows.std()), abs=1e-6)
    assert space.decode_action(None, space.encode_action(None, np.full((1, horizon, 1), -1.0)))[0, 0, 0] == -1


@pytest.mark.parametrize("representation", ["delta", "relative"])
def test_motion_is_counted_from_the_numbers_of_the_same_name(tmp_path: Path, representation: str) -> None:
    """M5: state and action hold the same names in different orders; differences were taken by place."""
    time = np.linspace(0, 1, 30)
    state = np.stack([time, 10 + 2 * time, 50 - time], 1)[None].repeat(2, 0)  # x, y, z
    action = state[..., [2, 0]] + 0.25  # z, x
    made = made_robot(tmp_path / "arm", state, action, state_names=("arm.x", "arm.y", "arm.z"), action_names=("z", "x"))
    policy = tiny_policy(horizon=4)
    learned(policy, tmp_path, dataset(made, representation=representation, normalisation="min_max"))
    space = policy.embodiments["arm"].action_space
    assert space.parts[0].state_dims == (2, 0)
    statistics = space.actions["action"].statistics
    assert np.abs([statistics.min, statistics.max]).max() < 0.5  # some 50 by place


@pytest.mark.parametrize("names", [("y", "gripper"), ("action_0", "action_1")])
def test_motion_of_numbers_that_the_state_does_not_name_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """M5: of equal width, but unlike, or nobody knows."""
    rows = np.linspace(0, 1, 12)[None, :, None] * np.ones((2, 1, 2))
    made = made_robot(tmp_path / "arm", rows, rows, state_names=("y", "x"), action_names=names)
    with pytest.raises(
        ValueError, match=rf"dataset 'arm': .*action's .*{names[1]} is none of .* y, x; .*--action-parts"
    ):
        learned(tiny_policy(), tmp_path, dataset(made, representation="relative"))
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(made))
    assert policy.embodiments["arm"].action_space.parts[0].state_dims is None


def test_datasets_of_one_slot_that_say_it_differently_are_refused(tmp_path: Path) -> None:
    """M3, M6: what the second said of representation and normalisation was ignored."""
    rows = np.linspace(0, 1, 12)[None, :, None] * np.ones((2, 1, 2))
    one, two = (made_robot(tmp_path / name, rows, rows) for name in ("one", "two"))
    policy = tiny_policy()
    with pytest.raises(ValueError, match="'two': normalisation mean_std, but embodiment 'arm' has min_max"):
        learned(policy, tmp_path, dataset(one, normalisation="min_max"), dataset(two, normalisation="mean_std"))


def test_what_one_dataset_of_a_slot_does_not_say_is_as_the_other_says(tmp_path: Path) -> None:
    rows = np.linspace(0, 1, 12)[None, :, None] * np.ones((2, 1, 2))
    one, two = (made_robot(tmp_path / name, rows, rows) for name in ("one", "two"))
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(one), dataset(two, normalisation="mean_std"))
    space = policy.embodiments["arm"].action_space
    assert (space.state.kind, space.parts[0].normalisation) == ("mean_std", "mean_std")
    learned(policy, tmp_path, dataset(one))  # and a known slot is as it was learned
    with pytest.raises(ValueError, match="'one': representation relative, but embodiment 'arm' has absolute"):
        learned(policy, tmp_path, dataset(one, representation="relative"))


XYG = ("x", "y", "gripper")


def three(seed: int) -> np.ndarray:
    """[2, 12, 3]: numbers of three unlike ranges."""
    return np.random.default_rng(seed).uniform((0, 10, 200), (1, 20, 300), (2, 12, 3))


def test_numbers_in_another_order_are_put_in_the_slots(tmp_path: Path) -> None:
    """M3: the gripper of the second dataset was normalised as x."""
    rows, order = three(0), [2, 0, 1]
    one = made_robot(tmp_path / "one", rows, rows, state_names=XYG, action_names=XYG)
    names = [f"hand.{XYG[place]}" for place in order]
    spare = np.concatenate([rows[..., order], rows[..., :1]], 2)
    two = made_robot(tmp_path / "two", rows[..., order], spare, state_names=names, action_names=[*names, "spare"])
    both, known = tiny_policy(), tiny_policy()
    first, second = learned(both, tmp_path, dataset(one), dataset(two))
    learned(known, tmp_path, dataset(one))
    (again,) = learned(known, tmp_path, dataset(two))
    for policy, data in ((both, second), (known, again)):
        space = policy.embodiments["arm"].action_space
        assert (space.state_names, space.action_names) == (XYG, XYG)
        for index in (0, 7):
            here, there = first.data[index], data.data[index]
            for made in ("state", "action"):
                np.testing.assert_array_equal(getattr(here, made), getattr(there, made))
        np.testing.assert_array_equal(data.data.numbers([3]).chunks, first.data.numbers([3]).chunks)
    assert both.embodiments["arm"].action_space.actions["action"].statistics.count[0] == 48


def test_names_that_the_slot_does_not_have_are_refused_with_both(tmp_path: Path) -> None:
    rows = three(0)
    one = made_robot(tmp_path / "one", rows, rows, state_names=XYG, action_names=XYG)
    two = made_robot(tmp_path / "two", rows, rows, state_names=XYG, action_names=("x", "y", "suction"))
    said = (
        r"dataset 'two': its action \[x, y, suction\] is not that of embodiment 'arm', \[x, y, gripper\]: \[gripper\] is "
        "lacking; .*another embodiment"
    )
    with pytest.raises(ValueError, match=said):
        learned(tiny_policy(), tmp_path, dataset(one), dataset(two))
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(one))
    with pytest.raises(ValueError, match=said):
        learned(policy, tmp_path, dataset(two))
    with pytest.raises(ValueError, match=r"its state \[\] is not that of embodiment 'arm', \[x, y, gripper\]"):
        learned(policy, tmp_path, dataset(made_robot(tmp_path / "none", None, rows, action_names=XYG)))


def test_numbers_without_unique_names_are_alike_only_as_a_whole(tmp_path: Path) -> None:
    rows = three(0)
    one = made_robot(tmp_path / "one", rows, rows, action_names=("j", "j", "j"))
    two = made_robot(tmp_path / "two", rows, rows[..., [0, 1, 2, 2]], action_names=("j", "j", "j", "j"))
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(one))
    learned(policy, tmp_path, dataset(one))
    with pytest.raises(ValueError, match=r"\[action.0, action.1, action.2, action.3\] is not that of embodiment 'arm'"):
        learned(policy, tmp_path, dataset(two))


def test_the_parts_of_another_order_are_those_of_the_slot(tmp_path: Path) -> None:
    rows, order = three(0), [2, 0, 1]
    one = made_robot(tmp_path / "one", rows, rows, state_names=XYG, action_names=XYG)
    names = [XYG[place] for place in order]
    two = made_robot(tmp_path / "two", rows[..., order], rows[..., order], state_names=names, action_names=names)
    hand, grip = ActionPart("hand", (0, 1), (0, 1), "relative"), ActionPart("grip", (2,))
    moved = (
        dataclasses.replace(hand, dims=(1, 2), state_dims=(1, 2)),
        dataclasses.replace(grip, dims=(0,)),
    )
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(one), dataset(two, parts=moved))
    assert policy.embodiments["arm"].action_space.parts == (hand, grip)
    learned(policy, tmp_path, dataset(two, parts=moved))
    with pytest.raises(ValueError, match="'two': action_parts .*name='grip'"):
        learned(
            policy, tmp_path, dataset(two, parts=(moved[0], dataclasses.replace(moved[1], normalisation="min_max")))
        )


def test_cameras_are_placed_by_name(tmp_path: Path) -> None:
    """M2: they were placed by number: the first place was `top` in one dataset and `wrist` in the others."""
    rows = three(0)
    one, two, three_ = (
        made_robot(tmp_path / name, rows, rows, cameras=cameras)
        for name, cameras in (("one", ("images.top", "images.wrist")), ("two", ("wrist",)), ("three", ("wrist", "top", "side")))
    )  # fmt: skip
    policy = tiny_policy()
    found = learned(policy, tmp_path, dataset(one), dataset(two), dataset(three_))
    assert policy.embodiments["arm"].cameras == ("images.top", "images.wrist", "side")
    shown = [(data.data[0].images[:, 0, 0, 0, 0].tolist(), data.data[0].image_mask[:, 0].tolist()) for data in found]
    assert shown == [
        ([10, 20, 0], [True, True, False]),
        ([0, 10, 0], [False, True, False]),  # each dataset's first camera is 10, its second 20, its third 30
        ([20, 10, 30], [True, True, True]),
    ]
    known = tiny_policy()
    learned(known, tmp_path, dataset(one))
    (found_two, found_three) = learned(known, tmp_path, dataset(two), dataset(three_))
    assert known.embodiments["arm"].cameras == ("images.top", "images.wrist")
    assert found_two.data[0].image_mask[:, 0].tolist() == [False, True]
    assert found_three.data[0].images[:, 0, 0, 0, 0].tolist() == [20, 10]
    other = made_robot(tmp_path / "other", rows, rows, cameras=("belly",))
    with pytest.raises(
        ValueError, match=r"'other': the cameras \[belly\] are none of .*'arm', \[images.top, images.wrist\]"
    ):
        learned(known, tmp_path, dataset(other))


def turning(folder: Path, fps: float, *, displacements: bool = False) -> Path:
    """A joint that turns at 1 rad/s, in the second episode to and fro; an action is where it is a row later, or the way there."""
    time = np.arange(0, 4 + 2 / fps, 1 / fps)
    state = np.stack([time, np.sin(time)])[..., None]
    action = state[:, 1:] - state[:, :-1] * displacements
    return made_robot(folder, state[:, :-1], action, fps=fps, state_names=("joint",), action_names=("joint",))


def test_faster_data_are_read_at_the_step_of_the_slot(tmp_path: Path) -> None:
    """M4: what takes 0.1 s in one dataset took 1/30 s in the other, under one step: 0.333 rad/s was taught."""
    slow, fast = turning(tmp_path / "slow", 10), turning(tmp_path / "fast", 30)
    policy, known = tiny_policy(horizon=4), tiny_policy(horizon=4)
    found = learned(policy, tmp_path, dataset(fast), dataset(slow))[0]
    assert policy.embodiments["arm"].step_s == pytest.approx(0.1)
    learned(known, tmp_path, dataset(slow))
    (again,) = learned(known, tmp_path, dataset(fast))
    for data in (found.data, again.data):
        sample = data[0]
        assert sample.state is not None and sample.action is not None
        np.testing.assert_allclose(sample.action[:, 0] - sample.state[0], np.arange(4) / 10 + 1 / 30, atol=1e-6)


def test_slower_data_than_the_slots_are_refused_with_both_steps(tmp_path: Path) -> None:
    policy = tiny_policy()
    learned(policy, tmp_path, dataset(turning(tmp_path / "fast", 30)))
    with pytest.raises(ValueError, match="'slow': its steps are 0.1000 s apart, those of embodiment 'arm' 0.0333 s"):
        learned(policy, tmp_path, dataset(turning(tmp_path / "slow", 10)))


def test_displacements_of_another_rate_are_refused(tmp_path: Path) -> None:
    """M4: three ways of 1/30 s would be done as one of 0.1 s, a third of the way."""
    slow, fast = (turning(tmp_path / str(fps), fps, displacements=True) for fps in (10, 30))
    with pytest.raises(
        ValueError, match="'30': its rows are 0.0333 s .* every 0.1000 s, but its joint are displacements"
    ):
        learned(tiny_policy(), tmp_path, dataset(slow), dataset(fast))
    remembered = DatasetSpec(
        "fast",
        "robot",
        EpisodesAt(turning(tmp_path / "fast", 30), EpisodeSelection(previous_action=True)),
        embodiment="arm",
    )
    before = dataclasses.replace(
        remembered, name="slow", data=EpisodesAt(turning(tmp_path / "slow", 10), remembered.data.selection)
    )
    with pytest.raises(ValueError, match="'fast': .*its state holds the action of the row before"):
        learned(tiny_policy(), tmp_path, before, remembered)


def gripping(folder: Path, scale: float, grips: bool) -> Path:
    """Joint 0 within `scale`, and a gripper that is 0, or 0 and 1."""
    joint = scale * np.random.default_rng(0).uniform(-1, 1, (2, 40))
    rows = np.stack([joint, (joint > 0) * float(grips)], 2)
    return made_robot(folder, rows, rows, state_names=("joint", "gripper"), action_names=("joint", "gripper"))


def test_an_action_that_begins_to_move_is_refused_by_name_or_fitted_again(tmp_path: Path) -> None:
    """M1: a gripper that never moved in the first data decoded to 0 for ever."""
    policy = tiny_policy(horizon=2)
    learned(policy, tmp_path, dataset(gripping(tmp_path / "base", 0.05, False), normalisation="min_max"))
    before = policy.embodiments["arm"]
    grips = dataset(gripping(tmp_path / "grips", 1, True))
    with pytest.raises(ValueError, match="dataset 'grips': its gripper move, but never did .*'arm'.*--refit"):
        learned(policy, tmp_path, grips)
    learned(policy, tmp_path, grips, refit=True)
    space = policy.embodiments["arm"].action_space
    assert space.parts == before.action_space.parts and policy.embodiments["arm"].cameras == before.cameras
    done = np.array([[[0.9, 1], [-0.9, 0]]])
    np.testing.assert_allclose(space.decode_action(None, space.encode_action(None, done)), done, atol=1e-6)
    learned(policy, tmp_path, grips)  # and from then on it is known
    with pytest.raises(ValueError, match="--refit: the policy knows none of these embodiments"):
        learned(tiny_policy(), tmp_path, grips, refit=True)


def test_what_lies_beyond_the_old_range_is_told_with_its_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """M1: a joint that moves 20 times as far was cut to the old range without a word."""
    policy = tiny_policy(horizon=2)
    learned(policy, tmp_path, dataset(gripping(tmp_path / "base", 0.05, False)))
    caplog.clear()
    learned(policy, tmp_path, dataset(gripping(tmp_path / "near", 0.0505, False)))
    assert "beyond" not in caplog.text
    learned(policy, tmp_path, dataset(gripping(tmp_path / "far", 1, False)))
    assert "embodiment 'arm'" in caplog.text and "action: joint 9" in caplog.text and "state: joint 9" in caplog.text
    assert "gripper" not in caplog.text and "--refit" in caplog.text


def test_latents_of_another_model_or_gap_are_refused_with_both(tmp_path: Path) -> None:
    """M3's twin: numbers of the same width that two models made."""
    one, other = (EmbodimentFacts(("clip",), 0, (), ("action.0",), "", f"model {name}, gap 0.5 s") for name in "ab")
    slot = Slot.new("latent", [one])
    assert place(one, slot).action == (0,)
    with pytest.raises(
        ValueError, match=r"latents are of model b, gap 0.5 s, those of .*'latent' of model a, gap 0.5 s"
    ):
        place(other, slot)
    known = Embodiment("latent", ActionSpace.fit(None, np.ones((2, 1, 1))), 0.0, ("clip",), made_by=slot.made_by)
    again = Embodiment.from_json(json.loads(json.dumps(known.to_json())))
    assert Slot.of(again).made_by == "model a, gap 0.5 s"
    assert place(other, dataclasses.replace(slot, made_by="")).action == (0,)  # a policy of before does not know


def test_images_made_square_in_another_way_are_refused_with_both() -> None:
    """Labels of cropped clips joined a robot whose images are whole, and one place in the image was two."""
    whole, cut, square = (EmbodimentFacts(("head",), 0.1, (), ("x",), by) for by in ("stretch", "crop", ""))
    slot = Slot.new("arm", [square, whole])
    assert slot.squared_by == "stretch" and place(whole, slot) == place(square, slot)
    with pytest.raises(
        ValueError, match=r"middle squares \(--fit crop\), those of embodiment 'arm' whole.*--fit stretch"
    ):
        place(cut, slot)
    space = ActionSpace.fit(None, np.ones((2, 1, 1)))
    known = Embodiment("arm", space, 0.1, ("head",), squared_by="crop")
    again = Embodiment.from_json(json.loads(json.dumps(known.to_json())))
    assert again.squared_by == Slot.of(again).squared_by == "crop"
    with pytest.raises(ValueError, match="whole ones, stretched to a square, those of embodiment 'arm' middle squares"):
        place(whole, Slot.of(again))


def test_a_policy_acts_on_images_made_square_as_in_training() -> None:
    policy = tiny_policy()
    teach(policy, "arm", 2, 2)
    image = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    shown = {}
    for by in ("stretch", "crop", ""):
        policy.embodiments["arm"] = dataclasses.replace(policy.embodiments["arm"], squared_by=by)
        images, _ = policy._images(Observation({"head": image}, np.zeros(2), "go"), policy.embodiments["arm"])
        shown[by] = images[0, 0, 0].permute(1, 2, 0).numpy()
    side = policy.config.image_size
    np.testing.assert_array_equal(shown["crop"], fit_square(image, side, "crop"))
    np.testing.assert_array_equal(shown["stretch"], fit_square(image, side, "stretch"))
    np.testing.assert_array_equal(shown[""], shown["stretch"])


def test_more_cameras_than_the_policy_has_places_for_are_refused_before_training(tmp_path: Path) -> None:
    """The union of five datasets' cameras was refused by the first batch, without a name."""
    rows = np.linspace(0, 1, 12)[None, :, None] * np.ones((2, 1, 2))
    made = [made_robot(tmp_path / f"d{number}", rows, rows, cameras=[f"cam{number}"]) for number in range(5)]
    with pytest.raises(
        ValueError, match=r"'arm' has 5 cameras.*cam0, cam1, cam2, cam3, cam4; .* places for 4.*--cameras"
    ):
        learned(tiny_policy(), tmp_path, *map(dataset, made))
    with pytest.raises(ValueError, match=r"'arm' has 2 cameras.*places for 1.*another recipe"):
        learned(tiny_bc(), tmp_path, *map(dataset, made[:2]))
    with pytest.raises(ValueError, match=r"history_s .*5 frames.*places for 4.*--model.small.history 5"):
        learned(tiny_policy(history_s=(0.4, 0.3, 0.2, 0.1, 0.0)), tmp_path, dataset(made[0]))
