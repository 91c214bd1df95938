"""Rollouts: counts and logs need no simulator; what is played is marked `gl`."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from corpora.simulation.metaworld import MetaWorldEnv, episode_generator
from corpora.simulation.settings import Look
from corpora.simulation.tasks import INSTRUCTIONS
from jobs.evaluation import rollouts
from jobs.evaluation.closed_loop import ClosedLoopSettings, Observations, checked_chunks, play
from jobs.evaluation.rollout_log import (
    ROLLOUT_FORMAT,
    Rollout,
    RolloutLog,
    language_instructions,
    language_shares,
    success_shares,
)
from jobs.evaluation.rollouts import WorkerError, control_steps, start_seed

LOOK = Look(size=32)
OPEN, CLOSE = INSTRUCTIONS["faucet-open"], INSTRUCTIONS["faucet-close"]


def rollout(task: str, start: int, instruction: str, success: bool, turned: str | None = None) -> Rollout:
    return Rollout(task, start, 7 + start, instruction, success, turned, 80, 1.0)  # type: ignore[arg-type]


# --- counting ----------------------------------------------------------------------------------------------------


def test_success_counts_only_rollouts_that_were_told_their_task() -> None:
    rollouts = [
        rollout("faucet-open", 0, OPEN, True),
        rollout("faucet-open", 1, OPEN, False),
        rollout("faucet-open", 0, CLOSE, True),
        rollout("faucet-open", 0, "", True),
        rollout("drawer-open", 0, INSTRUCTIONS["drawer-open"], True),
    ]
    shares = success_shares(rollouts)
    counted = {name: (share.successes, share.trials) for name, share in shares.items()}
    assert counted == {"faucet-open": (1, 2), "drawer-open": (1, 1), "all": (2, 3)}


def test_compliance_is_the_way_the_words_said_in_either_scene() -> None:
    rollouts = [
        rollout("faucet-open", 0, OPEN, True, "open"),
        rollout("faucet-open", 0, CLOSE, True, "open"),
        rollout("faucet-close", 0, OPEN, False, "open"),
        rollout("faucet-close", 0, CLOSE, False, None),
        rollout("faucet-close", 0, "", False, "open"),
        rollout("faucet-open", 0, "", True, "open"),
        rollout("faucet-open", 1, "", False, None),
        rollout("drawer-open", 0, INSTRUCTIONS["drawer-open"], True),
    ]
    counted = {name: (share.successes, share.trials) for name, share in language_shares(rollouts).items()}
    assert counted == {"compliance": (2, 4), "open": (2, 2), "close": (0, 2), "blank": (1, 3), "blank_turned": (2, 3)}
    told = language_instructions()
    assert told["faucet-open"] == told["faucet-close"] and set(told["faucet-open"]) == {OPEN, CLOSE, ""}


def test_starts_come_from_a_stream_of_their_own() -> None:
    seeds = [start_seed(0, task, k) for task in ("faucet-open", "faucet-close") for k in range(50)]
    trained = [
        int(episode_generator(0, task, k, "start").integers(2**31))
        for task in ("faucet-open", "faucet-close")
        for k in range(500)
    ]
    assert len(set(seeds)) == 100 and not set(seeds) & set(trained)
    assert start_seed(0, "faucet-open-v3", 3) == start_seed(0, "faucet-open", 3) != start_seed(1, "faucet-open", 3)


def test_a_killed_log_goes_on_and_one_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    log = RolloutLog(path, {"execute": 8, "tasks": ("a", "b")})
    made = [rollout("faucet-open", k, OPEN, k % 2 == 0, "open") for k in range(3)]
    for each in made:
        log.add(each)
    whole = path.read_text()
    for cut in (1, 15, 40):  # bytes that were not written any more
        path.write_text(whole[:-cut])
        again = RolloutLog(path, {"execute": 8, "tasks": ["a", "b"]})
        assert again.rollouts == made[:2]
        again.add(made[2])
        assert path.read_text() == whole
    assert RolloutLog(path, {"execute": 8, "tasks": ["a", "b"]}).done() == {("faucet-open", k, OPEN) for k in range(3)}
    with pytest.raises(ValueError, match=r"another execute \(8 there, 4 here\)"):
        RolloutLog(path, {"execute": 4, "tasks": ["a", "b"]})
    for was, there in (("", "None"), (', "rollout_format": 1', "1")):
        path.write_text(whole.replace(f', "rollout_format": {ROLLOUT_FORMAT}', was))
        with pytest.raises(
            ValueError, match=rf"another rollout_format \({there} there, .*choose another --out or remove"
        ):
            RolloutLog(path, {"execute": 8, "tasks": ["a", "b"]})
    path.write_text('{"settings": {"exec')
    assert RolloutLog(path, {"execute": 4}).rollouts == []


@pytest.mark.parametrize(("step_s", "steps"), [(1 / 80, 1), (0.05, 4), (0.1, 8), (1 / 40, 2)])
def test_a_step_of_a_chunk_is_a_whole_number_of_control_steps(step_s: float, steps: int) -> None:
    assert control_steps(step_s) == steps


@pytest.mark.parametrize("step_s", [1 / 30, 1 / 160, 0.0])
def test_a_rate_that_meta_world_cannot_hold_is_refused(step_s: float) -> None:
    with pytest.raises(ValueError, match="80 Hz"):
        control_steps(step_s)


@pytest.mark.gl
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("drawer-opn",)}, "Did you mean 'drawer-open'"),
        ({"starts": 0}, "at least 1"),
        ({"execute": 0}, "execute 0"),
        ({"max_steps": 501}, "1 to 500"),
        ({"history_s": (0.0, 0.5)}, "oldest first"),
        ({"instructions": {"drawer": ("x",)}}, "no Meta-World task 'drawer'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(changes: dict, message: str) -> None:
    fields: dict = {"tasks": ("drawer-open",), "starts": 1, **changes}
    how = {name: fields.pop(name) for name in ("history_s", "instructions") if name in fields}
    with pytest.raises(ValueError, match=message):
        play(_nothing, ClosedLoopSettings(**fields), **how)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((1, 2, 4)), "execute 8: the policy's chunks have 2 steps"),
        (np.zeros((1, 8, 3)), r"must be \[1, H, 4\]"),
        (np.zeros((2, 8, 4)), r"must be \[1, H, 4\]"),
        (np.full((1, 8, 4), np.nan), "NaN"),
    ],
)
def test_a_policy_that_answers_rubbish_is_refused(answer: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_chunks(answer, 1, 8)


# --- played ------------------------------------------------------------------------------------------------------


def _nothing(seen: Observations) -> np.ndarray:
    return np.zeros((len(seen.state), 4, 4))


@pytest.mark.gl
def test_the_faucet_is_turned_exactly_where_meta_world_says_so() -> None:
    """Over the handle's whole range, in both scenes, against the environments' own criteria."""
    mujoco = pytest.importorskip("mujoco")
    for task, way in (("faucet-open", "open"), ("faucet-close", "close")):
        env = MetaWorldEnv(task, LOOK)
        env.reset(3)
        inner, ways = env._env, []
        assert env.faucet_turned() is None
        for angle in np.linspace(-1.57, 1.57, 41):
            inner.data.joint("knob_Joint_1").qpos = angle
            mujoco.mj_forward(inner.model, inner.data)
            _, info = inner.evaluate_state(inner._get_obs(), np.zeros(4, np.float32))
            ways.append(env.faucet_turned())
            assert (ways[-1] == way) == bool(info["success"])
        assert {ways[0], ways[-1]} == {"open", "close"} and ways[20] is None
        env.close()
    env = MetaWorldEnv("drawer-open", LOOK)
    env.reset(0)
    assert env.faucet_turned() is None
    env.close()


@pytest.mark.gl
def test_the_expert_succeeds_and_the_number_of_workers_changes_nothing() -> None:
    tasks = ("faucet-open", "faucet-close")
    ended: list[Rollout] = []
    one = play("expert", ClosedLoopSettings(tasks, 2, look=LOOK, workers=1, slots=1), on_complete=ended.append)
    assert [each.key for each in one] == [(task, k, INSTRUCTIONS[task]) for task in tasks for k in range(2)]
    assert all(each.success for each in one) and sorted(map(repr, ended)) == sorted(map(repr, one))
    assert {each.turned for each in one[:2]} == {"open"} and {each.turned for each in one[2:]} == {"close"}
    two = play("expert", ClosedLoopSettings(tasks, 2, look=LOOK, workers=2, slots=2), skip={one[1].key})
    assert two == [one[0], *one[2:]]
    frames = one[0].frames
    assert frames is not None and frames.shape == (1 + -(-one[0].steps // 4), 32, 32, 3) and one[1].frames is None
    env = MetaWorldEnv("faucet-open", LOOK)
    env.reset(one[0].start_seed)
    np.testing.assert_array_equal(frames[0], env.render())
    while not env.success:
        env.step(env.expert_action())
    np.testing.assert_array_equal(frames[-1], env.render())
    assert env.steps == one[0].steps and one[0].seconds == pytest.approx(env.steps / 80)
    env.close()


@pytest.mark.gl
def test_a_policy_sees_what_the_environment_shows_and_its_chunk_is_executed_as_it_says() -> None:
    """Chunks of 4 of which 3 are executed, each for 2 control steps, with a frame from 3 control steps before, of
    which the nearest row of the training data (of two the later) is 2 before; against the environment played by hand."""
    told = {"drawer-open": ("a", "b")}
    seen: list[Observations] = []

    def act(now: Observations) -> np.ndarray:
        seen.append(now)
        level = np.array([0.5 if text == "a" else -0.5 for text in now.instruction])
        return np.linspace(0.2, 1, 4)[None, :, None] * level[:, None, None] * np.array([1.0, 0.5, -0.3, 0.0])

    settings = ClosedLoopSettings(("drawer-open",), 1, look=LOOK, execute=3, max_steps=15, workers=1, slots=2)
    rollouts = play(act, settings, instructions=told, step_s=1 / 40, history_s=(3 / 80, 0.0))
    assert [each.instruction for each in rollouts] == ["a", "b"]
    assert [each.steps for each in rollouts] == [15, 15] and not any(each.success for each in rollouts)
    assert [now.chunk for now in seen] == [[0, 0], [1, 1], [2, 2]]
    for row, level in ((0, 0.5), (1, -0.5)):
        env = MetaWorldEnv("drawer-open", LOOK)
        states, images = [env.reset(rollouts[0].start_seed)], [env.render().copy()]
        for step in range(15):
            level_now = np.linspace(0.2, 1, 4)[step % 6 // 2] * level
            states.append(env.step(level_now * np.array([1.0, 0.5, -0.3, 0.0])))
            images.append(env.render().copy())
        env.close()
        for number, now in enumerate(seen):
            assert now.images.shape == (2, 1, 2, 3, 32, 32) and now.state.dtype == np.float32
            np.testing.assert_array_equal(now.image_mask[row], [[number > 0, True]])
            np.testing.assert_allclose(now.state[row], states[6 * number], atol=1e-6)
            np.testing.assert_array_equal(now.images[row, 0, 1].transpose(1, 2, 0), images[6 * number])
            before = images[6 * number - 2] if number else np.zeros_like(images[0])
            np.testing.assert_array_equal(now.images[row, 0, 0].transpose(1, 2, 0), before)


@pytest.mark.gl
def test_a_failing_environment_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rollouts, "multiprocessing", multiprocessing
    )  # its own way to start them, with this environment
    monkeypatch.setenv("MUJOCO_GL", "wgl")  # not on Linux: the workers fail when they draw
    with pytest.raises(WorkerError, match="Traceback"):
        play(_nothing, ClosedLoopSettings(("reach",), 1, look=LOOK, workers=1))
