"""Open loop: the arithmetic against loops, baselines by hand, and the way from a LeRobot dataset."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.store.files import plain
from jobs.evaluation.open_loop import Baselines, Chunks, OpenLoopResult, compare
from jobs.evaluation.plots import error_figure, plot_trajectories
from jobs.evaluation.recorded_chunks import RecordedEpisodes
from jobs.evaluation.tables import open_loop_table, span_told
from tests.builders.datasets import CAMERAS, FPS, LENGTHS, lerobot_v2, lerobot_v3, truth_of
from tests.builders.policies import tiny_policy
from tests.builders.robots import know_made_robots, made_robot
from vla.actions.rest import matching_state_dims
from vla.actions.space import ActionSpace
from vla.checkpoint import build_policy
from vla.data.open import open_mixture
from vla.embodiment import Embodiment
from vla.policy import Policy
from vla.recipes import RECIPES
from vla.trained_on import TrainedOn

NAN = float("nan")


def made_chunks(seed: int, episodes: int = 4, horizon: int = 5) -> Chunks:
    """Random walks of 3 dimensions, the first two of which the state holds in reverse; the last never moves."""
    rng = np.random.default_rng(seed)
    state, last, action, mask, episode, t_s = [], [], [], [], [], []
    for number in range(episodes):
        length = int(rng.integers(8, 14))
        walk = np.cumsum(rng.normal(0.2, 1, (length, 3)), 0) * [1.0, 10.0, 0.0] + [0, 0, 4]
        for row in range(length):
            rows = np.minimum(row + np.arange(horizon), length - 1)
            action.append(walk[rows])
            mask.append(row + np.arange(horizon) < length)
            last.append(walk[row - 1] if row else np.full(3, NAN))
            state.append([walk[row, 1] - 0.5, walk[row, 0] + 0.1])
            episode.append(number + 10)
            t_s.append(row / 20)
    return Chunks(
        np.asarray(state, np.float32),
        np.asarray(last, np.float32),
        np.asarray(action, np.float32),
        np.asarray(mask),
        np.asarray(episode),
        np.asarray(t_s),
    )


HELD_BY = [1, 0, None]


def test_errors_are_those_of_a_loop_and_steps_past_the_end_do_not_count() -> None:
    train, truth = made_chunks(0), made_chunks(1)
    baselines = Baselines(train, HELD_BY)
    predicted = truth.action + np.random.default_rng(2).normal(size=truth.action.shape) * [1, 3, 0]
    predicted[~truth.mask] = 1e6
    result = compare(
        {"policy": predicted, **baselines.predict(truth)}, truth, baselines.std, ("a", "b", "c"), draws=200
    )
    assert result.moving.tolist() == [True, True, False] and result.episodes == 4
    for method, guess in {"policy": predicted, **baselines.predict(truth)}.items():
        errors = [
            (guess[n, k].astype(float) - truth.action[n, k]) ** 2
            for n in range(len(guess))
            for k in range(5)
            if truth.mask[n, k]
        ]
        np.testing.assert_allclose(result.per_dim[method].value, np.mean(errors, 0), rtol=1e-9)
        normalised = np.mean(errors, 0)[:2] / baselines.std[:2] ** 2
        assert float(result.overall[method].value) == pytest.approx(normalised.mean())
        at_3 = [(guess[n, 3] - truth.action[n, 3]) ** 2 for n in range(len(guess)) if truth.mask[n, 3]]
        assert result.per_step[method][3] == pytest.approx((np.mean(at_3, 0)[:2] / baselines.std[:2] ** 2).mean())
        if method != "policy":
            ratio = result.overall["policy"].value / result.overall[method].value
            assert float(result.ratio[method].value) == pytest.approx(float(ratio))
            assert result.ratio[method].low < ratio < result.ratio[method].high
    record = result.to_json()
    assert record["policy_over_baseline"]["hold_still"]["value"] == pytest.approx(
        float(result.ratio["hold_still"].value)
    )


def test_baselines_by_hand() -> None:
    train, truth = made_chunks(3), made_chunks(4)
    found = Baselines(train, HELD_BY).predict(truth)
    known = train.action[train.mask]
    first = np.flatnonzero(np.isnan(truth.last[:, 0]))[1]
    later = first + 1
    state = truth.state
    assert state is not None and train.state is not None
    np.testing.assert_allclose(found["hold_still"][later, 4], [state[later, 1], state[later, 0], truth.last[later, 2]])
    np.testing.assert_allclose(found["repeat_last"][later, 2], truth.last[later])
    # no last action at an episode's beginning: the state where it holds the quantity, else the training mean
    np.testing.assert_allclose(found["repeat_last"][first, 0], [state[first, 1], state[first, 0], known[:, 2].mean()])
    for step in (0, 3):
        rows = train.mask[:, step]
        np.testing.assert_allclose(found["mean_chunk"][5, step], train.action[rows, step].mean(0), rtol=1e-6)
        moved = train.action[rows, step, 0] - train.state[rows, 1]
        assert found["mean_motion"][later, step, 0] == pytest.approx(state[later, 1] + moved.mean(), rel=1e-5)


def test_a_robot_without_a_state_holds_its_last_action() -> None:
    truth = dataclasses.replace(made_chunks(5), state=None)
    found = Baselines(truth, HELD_BY).predict(truth)
    np.testing.assert_array_equal(found["hold_still"], found["repeat_last"])


def test_intervals_come_from_episodes_and_not_from_samples() -> None:
    """Twice the samples of the same episodes leave the interval as it is."""
    truth = made_chunks(6)
    twice = Chunks(*[np.repeat(getattr(truth, field.name), 2, 0) for field in dataclasses.fields(truth)])
    std = np.ones(3)
    one = compare({"policy": np.zeros_like(truth.action)}, truth, std, ("a", "b", "c"), draws=100)
    two = compare({"policy": np.zeros_like(twice.action)}, twice, std, ("a", "b", "c"), draws=100)
    np.testing.assert_allclose(one.overall["policy"].low, two.overall["policy"].low)
    np.testing.assert_allclose(one.overall["policy"].high, two.overall["policy"].high)


INTERVAL = {"value": 0.9, "bootstrap95": [0.9, 0.9]}


def test_no_interval_of_one_episode_is_stored_or_drawn() -> None:
    """R6: resampled, one episode is always itself, and "0.909 to 0.909" looks as if the error were known exactly."""
    truth = made_chunks(6, episodes=1)
    found = compare({"policy": truth.action + 1, "zero": 0 * truth.action}, truth, np.ones(3), ("x", "y", "z"))
    (low, high), value = (
        found.to_json()["normalised_squared_error"]["policy"][key] for key in ("bootstrap95", "value")
    )
    assert value == pytest.approx(1) and np.isnan([low, high]).all()
    assert plain(found.to_json())["policy_over_baseline"]["zero"]["bootstrap95"] == [None, None]
    assert (span_told([low, high]), span_told([None, None]), span_told([0.1, 0.25])) == ("", "", "0.1 to 0.25")
    (axes, *_) = error_figure(found).axes
    assert np.isfinite(axes.get_xlim()).all() and {text.get_text().strip() for text in axes.texts} > {"1"}


def test_one_episode_has_no_interval() -> None:
    found = {"samples": 3, "episodes": 1, "standing": "held out", "policy_over_baseline": {"hold_still": INTERVAL}}
    found["normalised_squared_error"] = {"policy": INTERVAL, "hold_still": INTERVAL}
    columns = open_loop_table(found).columns
    assert [list(column.cells) for column in columns[2::2]] == [["", ""], ["", ""]]
    columns = open_loop_table({**found, "episodes": 2}).columns
    assert [list(column.cells) for column in columns[2::2]] == [["0.9 to 0.9"] * 2, ["", "0.9 to 0.9"]]


def test_what_cannot_be_compared_is_refused() -> None:
    truth = made_chunks(7)
    zeros = np.zeros_like(truth.action)
    with pytest.raises(ValueError, match="no dimension of the action moves"):
        compare({"policy": zeros}, truth, np.zeros(3), ("a", "b", "c"))
    with pytest.raises(ValueError, match="policy predicts"):
        compare({"policy": zeros[:, :2]}, truth, np.ones(3), ("a", "b", "c"))
    nothing = dataclasses.replace(truth, mask=np.zeros_like(truth.mask))
    with pytest.raises(ValueError, match="no step of the held-out episodes"):
        compare({"policy": zeros}, nothing, np.ones(3), ("a", "b", "c"))
    with pytest.raises(ValueError, match="need training episodes"):
        Baselines(nothing, HELD_BY)


def test_state_dims_match_by_spec_first_and_by_name_else() -> None:
    assert matching_state_dims(["x", "y"], ["y", "z", "x"]) == [1, None, 0]
    assert matching_state_dims(["x", "y"], ["y", "z", "x"], {1: 0, 0: 0}) == [0, 0, 0]


def test_the_same_place_is_a_candidate_where_no_name_has_it() -> None:
    state = ["pose_x", "pose_y", "previous.x", "lead.y"]
    assert matching_state_dims(state, ["x", "y", "grip", "lift", "turn"]) == [0, 1, None, None, None]


def test_plots_are_drawn(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    train, truth = made_chunks(8), made_chunks(9)
    baselines = Baselines(train, HELD_BY)
    predictions = {"policy": truth.action + 0.3, **baselines.predict(truth)}
    rules = baselines.still_rules
    result = compare(predictions, truth, baselines.std, ("a", "b", "c"), draws=50, still_rules=rules)
    stored = OpenLoopResult.from_json(json.loads(json.dumps(result.to_json())))
    assert stored.to_json() == result.to_json()
    error_figure(stored).savefig(tmp_path / "errors.png", dpi=100)
    plot_trajectories(result, truth, predictions["policy"], 11, 1 / 20, tmp_path / "episode.png")
    blue = (168, 95, 31)  # of the policy, in OpenCV's order
    for name in ("errors.png", "episode.png"):
        picture = cv2.imread(str(tmp_path / name)).astype(int)
        assert (np.abs(picture - blue).sum(2) < 12).sum() > 100


# --- from a dataset ----------------------------------------------------------------------------------------------


def made_policy(answer: Any = None) -> Policy:
    """Of the made datasets: 3 states, 2 actions, at every second row."""
    policy = build_policy(RECIPES["debug"].policy)
    policy.add_embodiment("two_link")
    numbers = [truth_of(episode) for episode in range(2)]
    states = np.concatenate([number["observation.state"] for number in numbers])
    actions = np.concatenate([number["action"] for number in numbers])
    chunks = np.repeat(actions[:, None], 8, 1)
    space = ActionSpace.fit(states, chunks)
    policy.embodiments["two_link"] = Embodiment("two_link", space, 2 / FPS, CAMERAS)
    if answer is not None:
        policy.act_batch = answer  # type: ignore[method-assign]
    return policy.eval()


@pytest.mark.parametrize("make", [lerobot_v2, lerobot_v3])
def test_a_policy_that_knows_the_truth_has_no_error(tmp_path: Path, make: Any) -> None:
    """Rows, states, pictures, steps and masks belong to each other: the action is a function of the state's time."""

    def act(pictures: Any, mask: Any, instruction: Any, state: Any, embodiment: str, *, noise: Any) -> Any:
        assert pictures.shape[1:] == (2, 1, 3, 32, 32) and mask.all() and set(instruction) == {"place the cup"}
        t_s = state[:, 2:3] + np.arange(8) * 2 / FPS
        return np.stack([t_s, -t_s], 2).astype(np.float32)

    policy = made_policy(act)
    root = make(tmp_path / "data")
    recorded = RecordedEpisodes(policy, "two_link", root, EpisodeSelection("1"), every=3, cache=tmp_path / "cache")
    held = recorded.held
    assert len(held.action) == LENGTHS[1] // 3 and set(held.episode.tolist()) == {1}
    assert set(recorded.train.episode.tolist()) == {0} and len(recorded.train.action) == LENGTHS[0]
    np.testing.assert_allclose(held.t_s, np.arange(0, LENGTHS[1], 3) / FPS, atol=1e-6)
    predicted = recorded.predict(policy, "two_link", batch_size=4)
    np.testing.assert_allclose(predicted[held.mask], held.action[held.mask], atol=1e-5)
    ends_s = held.t_s[:, None] + np.arange(8) * 2 / FPS
    np.testing.assert_array_equal(held.mask, ends_s < (LENGTHS[1] - 0.5) / FPS)
    assert held.state is not None and held.moved is not None
    np.testing.assert_allclose(held.moved[:, 2], np.where(held.t_s < (LENGTHS[1] - 1.5) / FPS, 1 / FPS, NAN), atol=1e-5)
    assert np.isnan(held.last[0]).all()
    np.testing.assert_allclose(held.last[1:, 0], held.t_s[1:] - 2 / FPS, atol=1e-5)


def test_what_is_predicted_at_a_moment_does_not_depend_on_the_other_moments(tmp_path: Path) -> None:
    policy, root = made_policy(), lerobot_v3(tmp_path / "data")
    found = {}
    for every, size in ((2, 64), (4, 3)):
        recorded = RecordedEpisodes(
            policy, "two_link", root, EpisodeSelection("1"), every=every, cache=tmp_path / "cache"
        )
        found[every] = recorded.predict(policy, "two_link", seed=1, batch_size=size)
    np.testing.assert_allclose(found[4], found[2][::2], atol=1e-4)


def test_recorded_episodes_are_read_as_the_policys_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M2, M3, M4: other cameras, another order and a faster rate were taken as they lay, or refused."""
    know_made_robots(monkeypatch)
    time = np.arange(0, 2, 1 / 20)
    rows = np.stack([np.stack([np.sin(time + k), time, time > 1], 1) for k in (0, 1)])
    names, order, seen = ("x", "y", "gripper"), [2, 0, 1], []
    one = made_robot(
        tmp_path / "one", rows[:, ::2], rows[:, ::2], cameras=("top", "wrist"), state_names=names, action_names=names
    )
    other = [names[place] for place in order]
    two = made_robot(
        tmp_path / "two", rows[..., order], rows[..., order], fps=20, cameras=("side", "wrist"), state_names=other,
        action_names=other,
    )  # fmt: skip
    policy = tiny_policy()
    spec = DatasetSpec("one", "robot", EpisodesAt(one), embodiment="arm")
    open_mixture(MixtureSpec((spec,)), policy, held_out=0.0, cache=tmp_path / "cache")

    def act(images: Any, mask: Any, instruction: Any, state: Any, embodiment: str, *, noise: Any) -> Any:
        seen.append((images.numpy()[0, :, 0, 0, 0, 0].tolist(), mask.numpy()[0, :, 0].tolist()))
        return np.zeros((len(state), policy.config.horizon, 3), np.float32)

    policy.act_batch = act  # type: ignore[method-assign, assignment]
    found = [
        RecordedEpisodes(policy, "arm", data, EpisodeSelection("1"), every=every, cache=tmp_path / "cache")
        for data, every in ((one, 1), (two, 2))
    ]
    for recorded in found:
        recorded.predict(policy, "arm")
    assert seen == [([10, 20], [True, True]), ([0, 20], [False, True])]
    for name in ("state", "action", "mask"):
        np.testing.assert_allclose(getattr(found[0].held, name)[:10], getattr(found[1].held, name)[:10], atol=1e-6)


def test_wrong_choices_are_named(tmp_path: Path) -> None:
    root, policy = lerobot_v3(tmp_path / "data"), made_policy()
    for selection, message in (
        (EpisodeSelection("0:2"), "hold out some of them, not all"),
        (EpisodeSelection("1"), "leave 1 also among the training"),
        (EpisodeSelection("7"), "no episode is left"),
        (
            EpisodeSelection("1", state=("0:2",)),
            r"its state \[state_0, state_1\] is not that of .*'two_link', \[state.0, state.1, state.2\]",
        ),
        (EpisodeSelection("1", cameras=("wrist",)), "camera 'wrist'"),
        (EpisodeSelection("1", previous_action=True), "trained without it"),
    ):
        train = "0:2" if "training" in message else ""
        with pytest.raises(ValueError, match=message):
            RecordedEpisodes(policy, "two_link", root, selection, train_episodes=train, cache=tmp_path / "cache")


def test_columns_that_were_trained_with_are_not_asked_for_again(tmp_path: Path) -> None:
    """R9: the dataset's own default is another than what the policy was trained on."""
    root, policy = lerobot_v3(tmp_path / "data"), made_policy()
    parts = {"state": {"arm": {"start": 0, "end": 2}}, "action": {"all": {"start": 0, "end": 2}}}
    (root / "meta" / "modality.json").write_text(json.dumps(parts))
    stored = TrainedOn("demonstrations", "data", "", "two_link", "episodes", state=("0:3",))
    where = (policy, "two_link", root, EpisodeSelection("1"))
    recorded = RecordedEpisodes(*where, stored=stored, cache=tmp_path / "cache")
    assert recorded.held.state is not None and recorded.held.state.shape[1] == 3
    with pytest.raises(ValueError, match="state"):
        RecordedEpisodes(*where, cache=tmp_path / "cache")
