"""The simulated scene: its noise and seeds, its looks, and what of it is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from corpora.simulation.head_camera import head_camera_path
from corpora.simulation.metaworld import MetaWorldEnv, episode_generator, smooth_noise
from corpora.simulation.settings import EpisodeSettings, Look
from corpora.simulation.tasks import task_names


def test_noise_has_the_level_asked_for_and_is_smooth() -> None:
    noise = smooth_noise(np.random.default_rng(0), 60_000, 0.6, smoothing_s=0.08)
    assert noise.shape == (60_000, 4)
    np.testing.assert_allclose(noise.std(0), 0.6, rtol=0.03)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.02)
    # White noise smoothed by a Gaussian window of 6.4 steps is correlated as a Gaussian of 6.4 sqrt(2) steps.
    for lag in (1, 6, 20):
        correlation = (noise[lag:] * noise[:-lag]).mean(0) / noise.var(0)
        np.testing.assert_allclose(correlation, np.exp(-(lag**2) / (4 * 6.4**2)), atol=0.03)
    assert abs(np.corrcoef(noise.T)[np.triu_indices(4, 1)]).max() < 0.05


def test_noise_level_zero_is_no_noise() -> None:
    assert not smooth_noise(np.random.default_rng(0), 50, 0.0, smoothing_s=0.08).any()


def test_an_episodes_randomness_depends_on_seed_task_episode_and_stream_alone() -> None:
    def draw(*key: object) -> float:
        return float(episode_generator(*key).random())

    assert draw(0, "drawer-open", 3, "noise") == draw(0, "drawer-open-v3", 3, "noise")
    others = [
        draw(1, "drawer-open", 3, "noise"),
        draw(0, "door-open", 3, "noise"),
        draw(0, "drawer-open", 4, "noise"),
        draw(0, "drawer-open", 3, "camera"),
    ]
    assert len({draw(0, "drawer-open", 3, "noise"), *others}) == 5


def test_unknown_tasks_get_a_suggestion() -> None:
    with pytest.raises(ValueError, match="Did you mean 'drawer-open'"):
        task_names(("drawer-opn",))
    assert task_names(("drawer-open-v3", "reach")) == ("drawer-open", "reach")
    with pytest.raises(ValueError, match="twice"):
        task_names(("reach", "reach-v3"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": ()}, "noise"),
        ({"noise": (0.1, -0.1)}, "none below 0"),
        ({"frame_every": 3}, "must divide 80"),
        ({"max_steps": 501}, "1 to 500"),
        ({"camera_motion": -1.0}, "camera_motion -1"),
    ],
)
def test_episode_settings_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeSettings(**changes)


@pytest.mark.gl
def test_closing_an_environment_leaves_the_pictures_of_the_others_alone() -> None:
    envs = [MetaWorldEnv(task, Look(size=64)) for task in ("drawer-open", "button-press-topdown", "faucet-open")]
    for env in envs:
        env.reset(1)
    before = [env.render().copy() for env in envs]
    for closed in (1, 0):  # the last one drawn is another
        envs[closed].close()
        np.testing.assert_array_equal(envs[2].render(), before[2])
        envs[closed].close()
    envs[2].close()


@pytest.mark.gl
def test_the_goal_is_hidden_unless_asked_for_and_the_hand_looks_like_no_robot() -> None:
    pictures = {}
    for name, look in {
        "robot": Look(64),
        "goal": Look(64, show_goal=True),
        "hand": Look(64, appearance="hand"),
    }.items():
        env = MetaWorldEnv("drawer-open", look)
        states = [env.reset(5)]
        states += [env.step(env.expert_action()) for _ in range(10)]
        pictures[name] = env.render().astype(int)
        if name == "robot":
            expected = states
        np.testing.assert_array_equal(states, expected)  # looks change nothing in the physics
        env.close()
    red, green, blue = np.moveaxis(pictures["goal"] - pictures["robot"], 2, 0)
    assert (green > 40).any() and np.count_nonzero(pictures["goal"] != pictures["robot"]) < 600
    red, green, blue = np.moveaxis(pictures["robot"], 2, 0)
    arm = (red > 80) & (green < 60) & (blue < 60)
    assert arm.mean() > 0.03
    assert np.abs(pictures["hand"] - pictures["robot"]).max(2).mean() > 60
    red, green, blue = np.moveaxis(pictures["hand"], 2, 0)
    assert ((red > 80) & (green < 60) & (blue < 60)).mean() < 0.002


@pytest.mark.gl
def test_a_person_looks_the_same_whoever_acted_before_and_changes_nothing_but_looks() -> None:
    look = Look(64, appearance="hand")
    changing, fresh = MetaWorldEnv("drawer-open", look), MetaWorldEnv("drawer-open", look)
    pictures, states = {}, {}
    for number in (0, 3, 1, 2, 0, 3):
        changing.become(number)
        states[number] = changing.reset(5)
        pictures.setdefault(number, []).append(changing.render().copy())
        np.testing.assert_array_equal(states[number], states[0])
    fresh.become(3)
    fresh.reset(5)
    np.testing.assert_array_equal(fresh.render(), pictures[3][0])
    for number in (0, 3):
        np.testing.assert_array_equal(*pictures[number])
    for one, other in ((0, 1), (1, 2), (2, 3)):  # nearly every pixel
        assert (pictures[one][0] != pictures[other][0]).any(2).mean() > 0.9
    changing.close()
    fresh.close()
    robot = MetaWorldEnv("drawer-open", Look(64))
    with pytest.raises(ValueError, match="person 1: the appearance is 'robot'"):
        robot.become(1)
    robot.close()


@pytest.mark.gl
def test_what_is_not_sent_to_opengl_would_not_have_been_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    env = MetaWorldEnv("faucet-open", Look(64))
    env.reset(0)
    path = head_camera_path(np.random.default_rng(0), 60, 80, 12, 64, 50, 1.0)
    culled = [env.render(motion).copy() for motion in path[::10]]
    assert env._out_of_view(*env.pose.moved(path[0])).any()
    monkeypatch.setattr(env, "_out_of_view", lambda position, rotation: np.zeros(env._env.model.ngeom, bool))
    for motion, picture in zip(path[::10], culled, strict=True):
        np.testing.assert_array_equal(env.render(motion), picture)
    env.close()


@pytest.mark.gl
def test_the_environment_is_ready_for_closed_loop_use() -> None:
    env = MetaWorldEnv("button-press-topdown-v3", Look(32))
    with pytest.raises(ValueError, match="has not been reset"):
        env.state()
    first = env.reset(3)
    while not env.success and env.steps < 150:
        env.step(env.expert_action())
    assert env.success and env.instruction == "press the button from above"
    with pytest.raises(ValueError, match="4 finite numbers"):
        env.step(np.array([0, 0, 0, np.nan]))
    np.testing.assert_array_equal(env.reset(3), first)
    env.close()
    env.close()
