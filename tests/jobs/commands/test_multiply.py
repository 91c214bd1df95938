"""`giza multiply`: demonstrations in new scenes, their provenance, and kills."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.simulation.episode import record_episode, start_seed
from corpora.simulation.metaworld import MetaWorldEnv
from corpora.simulation.multiplied import Follower, demonstration, read_simulated
from corpora.simulation.settings import EpisodeSettings, Joining, Look
from jobs.cli import main as giza
from jobs.commands import multiply, simulate
from jobs.commands.multiply import MultiplyConfig, run
from tests.builders.datasets import opened

pytestmark = pytest.mark.gl
TASKS = ("button-press", "coffee-pull")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations a task, the second with noise."""
    out = tmp_path_factory.mktemp("shown") / "demos"
    episode = EpisodeSettings(frame_every=4, noise=(0.0, 0.1), seed=5)
    simulate.run(simulate.SimulateConfig(out=out, tasks=TASKS, episodes=2, size=32, episode=episode))
    return out


def config(shown: Path, out: Path, **changes: Any) -> MultiplyConfig:
    return MultiplyConfig(**{"demos": shown, "into": 2, "out": out, "tasks": TASKS, **changes})


@pytest.fixture(scope="module")
def made(shown: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("made") / "more"
    return out, run(config(shown, out))


def files(root: Path) -> dict[str, Any]:
    """Everything, of the summary without what tells times and machines."""
    found: dict[str, Any] = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != multiply.SUMMARY
    }
    told = json.loads((root / multiply.SUMMARY).read_text())
    return {**found, multiply.SUMMARY: {**told, "wall_s": 0, "provenance": 0}}


def test_a_demonstration_in_its_own_scene_gives_itself_back_and_succeeds(shown: Path) -> None:
    dataset = read_simulated(shown)
    assert len(dataset.demonstrations) == 4
    settings = dataclasses.replace(dataset.episode, noise=(0.0,), max_steps=500)
    for task in TASKS:
        env = MetaWorldEnv(task, Look(size=32))
        for taken in dataset.of(task):
            place = demonstration(env, dataset, taken)
            states: list[np.ndarray] = []
            step = env.step
            env.step = lambda action, step=step, states=states: states.append(step(action)) or states[-1]  # type: ignore
            actor = Follower([place], Joining(), seed=0, name="")  # the start that the expert had
            facts = record_episode(env, settings, taken.episode, None, actor=actor)
            env.step = step  # type: ignore[method-assign]
            assert facts["success"]
            assert taken.rows.state is not None
            again = np.stack(states)[3::4][: len(taken.rows.state) - 1, :3]
            # rows hold the means of four actions: what is between them is not known, and friction tells
            np.testing.assert_allclose(again, taken.rows.state[1 : len(again) + 1, :3], atol=0.01)
        env.close()


def test_at_control_rate_it_gives_itself_back_to_the_number(tmp_path: Path) -> None:
    episode = EpisodeSettings(noise=(0.3,))
    simulate.run(
        simulate.SimulateConfig(out=tmp_path / "d", tasks=("coffee-button",), episodes=1, size=16, episode=episode)
    )
    dataset = read_simulated(tmp_path / "d")
    env = MetaWorldEnv("coffee-button", Look(size=16))
    place = demonstration(env, dataset, dataset.demonstrations[0])
    env.reset(0)  # another scene in between
    actor = Follower([place], Joining(), seed=0, name="")
    settings = dataclasses.replace(dataset.episode, noise=(0.0,))
    rows: list[dict[str, Any]] = []

    class Kept:
        def add(self, image: object, row: dict[str, Any]) -> None:
            rows.append(row)

    facts = record_episode(env, settings, 0, Kept(), actor=actor)  # type: ignore[arg-type]
    env.close()
    assert facts["success"]
    taken = dataset.demonstrations[0].rows
    assert taken.action is not None and taken.state is not None
    np.testing.assert_allclose(np.stack([row["action"] for row in rows]), taken.action, atol=1e-5)
    np.testing.assert_allclose(np.stack([row["observation.state"] for row in rows]), taken.state, atol=1e-5)


def test_only_successes_are_kept_and_each_says_where_it_came_from(
    shown: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    out, summary = made
    episodes = opened(out, action=("action",))
    assert len(episodes.episodes) == summary["episodes"] == 4
    assert all(episode.success for episode in episodes.episodes)
    dataset = read_simulated(shown)
    for number, fact in enumerate(summary["per_episode"]):
        task = TASKS[number // 2]
        assert fact["task"] == task and fact["success"]
        env = MetaWorldEnv(task, Look(size=32))
        state = env.reset(fact["seed"])
        mine = episodes.episodes[number]
        assert mine.state is not None
        np.testing.assert_allclose(state, mine.state[0], atol=1e-6)  # the scene is known again
        objects = [segment["object"] for segment in fact["segments"]]
        for segment, here in zip(fact["segments"], env.places(objects), strict=True):
            taken = next(each for each in dataset.of(task) if each.rows.index == segment["demonstration"])
            there = demonstration(env, dataset, taken).places[objects.index(segment["object"])]
            np.testing.assert_allclose(segment["motion"], there.to(here).rows(), atol=1e-9)
        env.close()
    assert [len(fact["segments"]) for fact in summary["per_episode"]] == [1, 1, 2, 2]
    for task in TASKS:
        told = summary["tasks"][task]
        assert told["tries"] == told["succeeded"] + len(told["failed"]) and told["succeeded"] == 2
    card = (out / "README.md").read_text()
    assert "Written by giza multiply" in card and "| tier | synthetic |" in card and str(shown) not in card


def test_what_fails_is_left_out_and_counted(
    shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unlucky(env: MetaWorldEnv, settings: EpisodeSettings, episode: int, record: Any, **how: Any) -> dict[str, Any]:
        facts = record_episode(env, settings, episode, record, **how)
        return {**facts, "success": facts["success"] and episode not in (0, 2, 3)}

    monkeypatch.setattr("corpora.simulation.episode.record_episode", unlucky)
    summary = run(config(shown, tmp_path / "few", tasks=("button-press",), into=5, tries=1))
    told = summary["tasks"]["button-press"]
    assert [fact["try"] for fact in summary["per_episode"]] == [1, 4] and len(opened(tmp_path / "few").episodes) == 2
    assert [fact["try"] for fact in told["failed"]] == [0, 2, 3]
    assert all(not each["success"] and each["segments"] for each in told["failed"])
    assert (told["tries"], told["succeeded"], told["wanted"], told["rate"]) == (5, 2, 5, 0.4)
    assert "2 of 5 trajectories: no more succeeded in 5 tries" in caplog.text
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"none of 2 tries succeeded.*--noise"):
        run(config(shown, tmp_path / "none", tasks=("coffee-pull",), noise=50.0, tries=1))


def test_killed_and_started_again_it_gives_the_same_bytes(
    shown: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / made[0].name
    flags = ["--demos", str(shown), "--into", "2", "--tasks", *TASKS]
    command = [sys.executable, "-m", "jobs.cli", "multiply", *flags, "--out", str(out)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / ".staging" / "episode_000000").exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert (out / ".staging" / "episode_000000").exists() and not (out / multiply.SUMMARY).exists()
    summary = run(config(shown, out))
    assert files(out) == files(made[0])
    assert run(config(shown, out)) == {**summary, "already_finished": True}
    with pytest.raises(ValueError, match=r"other settings \(noise 0.05 there and 0.1 here\)"):
        run(config(shown, out, noise=0.1))


def test_another_seed_gives_other_scenes_and_none_is_a_demonstrations(
    shown: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    other = run(config(shown, tmp_path / "other", seed=5, tasks=("button-press",)))
    seeds = {fact["seed"] for fact in made[1]["per_episode"]}
    assert not seeds & {fact["seed"] for fact in other["per_episode"]}
    dataset = read_simulated(shown)
    for taken in dataset.demonstrations:
        assert start_seed(5, taken.task, taken.episode) not in seeds


def test_bad_input_is_one_line(shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain"
    (plain / "meta").mkdir(parents=True)
    free, failed, elsewhere, unknown = (tmp_path / name for name in ("free", "failed", "elsewhere", "unknown"))
    told = json.loads((shown / "simulate.json").read_text())
    for folder, change in (
        (free, lambda told: told.pop("per_episode")),
        (failed, lambda told: [fact.update(success=False) for fact in told["per_episode"][:2]]),
        (elsewhere, lambda told: told["settings"]["episode"].update(seed=6)),
        (unknown, lambda told: told["settings"].update(tasks=[*TASKS, "hand-insert"])),
    ):
        folder.mkdir()
        for name in ("meta", "data", "videos"):
            (folder / name).symlink_to(shown / name)
        mine = json.loads(json.dumps(told))
        change(mine)
        (folder / "simulate.json").write_text(json.dumps(mine))
    cases = {
        (str(plain),): "holds no simulate.json: name a dataset that giza simulate wrote",
        (str(free),): "was simulated with --action-free",
        (str(failed), "--episodes", "0:2"): "episode 0 of",
        (str(failed), "--tasks", "button-press"): "no episode of button-press that succeeded",
        (str(elsewhere),): "is not what its seed gives here",
        (str(unknown),): "task 'hand-insert': which object it is about is not known",
        (str(shown), "--tasks", "buton-press"): "Did you mean 'button-press'",
        (str(shown), "--tasks", "push"): "--tasks 'push': not of",
        (str(shown), "--into", "1"): "into 1: below the 2 demonstrations of button-press",
        (str(tmp_path / "nothing"),): "there is no such file or folder",
    }
    for name in ("into", "tries"):
        with pytest.raises(ValueError, match=f"{name} 0: must be at least 1"):
            config(shown, tmp_path / "out", **{name: 0})
    for (demos, *flags), said in cases.items():
        words = ["--into", "3", *flags] if "--into" not in flags else flags
        out = tmp_path / "out"
        assert giza(["multiply", "--demos", demos, *words, "--out", str(out)]) == 2, said
        error = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("giza multiply:")]
        assert len(error) == 1 and said in error[0], (said, error)
        assert not out.exists(), said


def test_the_command_prints_its_table(
    shown: Path, made: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["multiply", "--demos", str(shown), "--into", "2", "--tasks", *TASKS, "--out", str(made[0])]
    assert giza(words) == 0
    printed = capsys.readouterr().out
    assert "already finished" in printed and "2 of 2" in printed and "coffee-pull" in printed
