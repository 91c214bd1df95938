"""Closed loop in LIBERO, on a stand-in for it: what the policy is shown, what is kept, and how it goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora.simulation.libero.facts import LiberoLook, object_task
from jobs.cli import main
from jobs.commands.evaluate import EvaluateConfig, run
from jobs.evaluation.libero import LiberoSettings, libero_loop, plan_of
from tests.builders import fake_libero
from tests.builders.libero import SeeingPolicy, fake_environment
from tests.builders.policies import tiny_bc
from vla.actions.space import ActionSpace
from vla.embodiment import Embodiment
from vla.serving.groot import server_of
from vla.serving.server import ServerConfig

MILK = object_task("milk")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_environment(tmp_path / "env", monkeypatch)


def played(out: Path, policy: Any = None, **settings: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"tasks": ("milk",), "starts": 3, "look": LiberoLook(64), "workers": 1, **settings}
    loop = libero_loop(
        policy or SeeingPolicy(), "panda", LiberoSettings(**fields), {}, out, progress=lambda done, total: None
    )
    return loop


def records(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (out / "rollouts.jsonl").read_text().splitlines()[1:]
    return {(each["task"], each["start"]): each for each in map(json.loads, lines)}


@pytest.mark.parametrize("opens_at_one", [False, True])
def test_a_policy_that_looks_solves_it(tmp_path: Path, opens_at_one: bool) -> None:
    """Pictures, state, instruction and action reach their places, also of a gripper that opens at 1."""
    policy = SeeingPolicy(opens_at_one=opens_at_one)
    found = played(tmp_path / "out", policy, tasks=("milk", "butter"))
    assert found["success"][MILK]["successes"] == found["success"][MILK]["trials"] == 3
    assert found["success"][object_task("butter")]["successes"] == 0  # the stand-in never lets it go
    assert found["success"]["all"]["wilson95"][0] > 0.1
    assert found["settings"]["max_steps"] == 280 and found["settings"]["suite"] == "object"
    there = records(tmp_path / "out")
    assert there[object_task("butter"), 0]["steps"] == 280 and there[MILK, 0]["steps"] < 100
    texts, masks, _ = zip(*policy.seen, strict=True)
    assert set(texts) == {MILK.replace("_", " "), object_task("butter").replace("_", " ")}
    assert masks[0] == [False, True] and masks[1] == [True, True]  # no frame from before the start is shown
    assert sorted(path.name[:20] for path in (tmp_path / "out" / "films").iterdir()) == [
        "pick_up_the_butter_a",
        "pick_up_the_milk_and",
    ]


def test_a_rollout_does_not_depend_on_what_else_plays(tmp_path: Path) -> None:
    together, apart = SeeingPolicy(), SeeingPolicy()
    played(tmp_path / "one", together, tasks=("milk", "ketchup"))
    played(tmp_path / "two", apart, tasks=("milk", "ketchup"), workers=2)
    assert records(tmp_path / "one") == records(tmp_path / "two")
    assert sorted(together.seen) == sorted(apart.seen)  # the noise included


def test_a_worker_that_dies_is_told_and_the_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    played(whole)
    monkeypatch.setenv(fake_libero.DEADLY, "2")
    with pytest.raises(OSError, match="a process of LIBERO's ended with status -9"):
        played(out)
    before = (out / "rollouts.jsonl").read_text()
    assert len(records(out)) == 2
    monkeypatch.delenv(fake_libero.DEADLY)
    policy = SeeingPolicy()
    played(out, policy)
    assert (out / "rollouts.jsonl").read_text().startswith(before) and records(out) == records(whole)
    count = len(policy.seen)
    played(out, policy)
    assert len(policy.seen) == count  # nothing is played again
    with pytest.raises(ValueError, match=r"another execute \(5 there, 8 here\)"):
        played(out, execute=8)


class Mortal(SeeingPolicy):
    """Its server ends after some answers."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.answers, self.server = answers, None

    def act_batch(self, *given: Any, **named: Any) -> Any:
        self.answers -= 1
        if self.answers == 0 and self.server is not None:
            self.server.stop()
        return super().act_batch(*given, **named)


def test_a_server_that_dies_in_the_middle_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    played(tmp_path / "whole")
    policy = Mortal(12)
    server = server_of(policy, "panda", ServerConfig(port=0))  # type: ignore[arg-type]
    policy.server = server
    address = f"127.0.0.1:{server.port}"
    with server, pytest.raises(OSError, match="the policy server is gone .*: start it again with giza serve") as told:
        played(tmp_path / "out", server=address, timeout_s=1.0)
    assert "\n" not in str(told.value) and 0 < len(records(tmp_path / "out")) < 3
    with pytest.raises(ValueError, match="nobody answers there; start it with giza serve"):
        played(tmp_path / "out", server=address, timeout_s=0.2)
    with server_of(SeeingPolicy(), "panda", ServerConfig(port=0)) as again:  # type: ignore[arg-type]
        played(tmp_path / "out", server=f"127.0.0.1:{again.port}")
    assert records(tmp_path / "out") == records(tmp_path / "whole")


def test_a_server_of_another_policy_is_refused(tmp_path: Path) -> None:
    other = SeeingPolicy()
    other.known = Embodiment("panda", other.known.action_space, 0.05, ("observation.images.image",))
    with (
        server_of(other, "panda", ServerConfig(port=0)) as server,  # type: ignore[arg-type]
        pytest.raises(
            ValueError, match=r"serves another policy: its video has \['image'\], that of --policy \['front'\]"
        ),
    ):
        played(tmp_path, server=f"127.0.0.1:{server.port}")


def policy_of(state: int = 8, action: int = 7, cameras: tuple[str, ...] = ("image",)) -> Any:
    policy = tiny_bc()
    policy.add_embodiment("panda")
    rng = np.random.default_rng(0)
    states, chunks = rng.normal(size=(64, state)), rng.uniform(-1, 1, (64, policy.config.horizon, action))
    space = ActionSpace.fit(states.astype(np.float32), chunks.astype(np.float32))
    policy.embodiments["panda"] = Embodiment("panda", space, 0.05, cameras)
    return policy


def test_cameras_are_found_by_the_names_of_the_published_copies() -> None:
    for names in (("image", "wrist_image"), ("observation.images.image", "observation.images.image2")):
        plan = plan_of(policy_of(cameras=names), "panda")
        assert list(plan["cameras"].values()) == ["agentview", "robot0_eye_in_hand"]
    assert plan_of(policy_of(cameras=("head",)), "panda")["cameras"] == {"head": "agentview"}


@pytest.mark.parametrize(("low", "high", "turned"), [(-1, 1, False), (0, 1, True), (1, 1, False), (-1, 0, False)])
def test_a_gripper_is_turned_only_if_it_went_from_0_to_1(low: float, high: float, turned: bool) -> None:
    """One that only ever closed, at LIBERO's 1, is none of a copy's that opens there."""
    policy = SeeingPolicy()
    chunks = np.random.default_rng(0).uniform(-1, 1, (64, 8, 7)).astype(np.float32)
    chunks[..., 6] = np.where(chunks[..., 6] > 0, high, low)
    space = ActionSpace.fit(np.zeros((64, 8), np.float32), chunks)
    policy.known = dataclasses.replace(policy.known, action_space=space)
    assert plan_of(policy, "panda")["opens_at_one"] is turned  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": 11, "action": 4}, "11 numbers of state and 4 of action, LIBERO's has 8 and 7"),
        ({"cameras": ("image", "chest")}, r"cameras \['chest'\]"),
    ],
)
def test_another_robots_policy_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"is not LIBERO's robot.*{message}"):
        plan_of(policy_of(**changes), "panda")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"suite": "objects"}, "Did you mean 'object'"),
        ({"starts": 51}, "stores 50 of each task"),
        ({"server": "here"}, "must be HOST:PORT"),
        ({"tasks": ("mlik",)}, "none of suite 'object' has it"),
        ({"tasks": ("pick",)}, "10 tasks of suite 'object' have it"),
        ({"execute": 9}, "the policy's chunks have 8 steps"),
    ],
)
def test_wrong_settings_are_told_in_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        played(tmp_path, **settings)
    assert "\n" not in str(told.value)


def test_as_a_user_calls_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy_of().save_pretrained(tmp_path / "policy")
    out = tmp_path / "out"
    words = ["evaluate", "--policy", str(tmp_path / "policy"), "--benchmark", "libero", "--tasks", "milk", "ketchup"]
    words += ["--starts", "2", "--max-steps", "12", "--size", "32", "--out", str(out)]
    monkeypatch.setenv(fake_libero.DEADLY, "1")
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.strip().splitlines()[-1].startswith("giza evaluate: a process of LIBERO's ended with status -9")
    assert "run the same command again" in said
    monkeypatch.delenv(fake_libero.DEADLY)
    assert main(words) == 0
    assert "Closed loop in LIBERO-Object, unseen starts" in capsys.readouterr().out
    page = (out / "evaluation.html").read_text("utf-8")
    assert "Closed loop, in LIBERO-Object" in page and "Meta-World" not in page and page.count("<video") == 2
    found = run(
        EvaluateConfig(
            str(tmp_path / "policy"), out, benchmark="libero", tasks=("milk",), starts=1, max_steps=12, size=32
        ),
        quiet=True,
    )
    assert found["closed_loop"]["success"]["all"]["trials"] == 1 and found["closed_loop"]["control_steps_per_s"] is None
    monkeypatch.setenv("GIZA_LIBERO", str(tmp_path / "none"))
    assert main([*words[:-1], str(tmp_path / "other")]) == 2
    assert "build it with make libero" in capsys.readouterr().err
