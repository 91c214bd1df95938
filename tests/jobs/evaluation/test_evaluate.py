"""giza evaluate as a user calls it, with a policy that knows nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from corpora.episodes.selection import EpisodeSelection
from corpora.simulation.metaworld import ACTION_NAMES, STATE_NAMES
from corpora.simulation.settings import Look
from jobs.commands.evaluate import EvaluateConfig, _comparable, main, run
from jobs.evaluation.acting import embodiment_of, load_acting, metaworld_act, resized
from jobs.evaluation.closed_loop import ClosedLoopSettings, Observations, play
from jobs.evaluation.open_loop import OPEN_LOOP_FORMAT
from jobs.evaluation.rollout_log import ROLLOUT_FORMAT
from tests.builders.datasets import lerobot_v3
from tests.jobs.evaluation.test_open_loop import made_policy
from tests.jobs.evaluation.test_verdict import opened
from vla.actions.space import ActionSpace
from vla.checkpoint import build_policy
from vla.embodiment import Embodiment
from vla.recipes import RECIPES


def metaworld_policy(folder: Path) -> Path:
    """Random weights, random statistics."""
    policy = build_policy(RECIPES["debug"].policy)
    policy.add_embodiment("metaworld")
    rng = np.random.default_rng(0)
    states, chunks = rng.normal(size=(64, 11)).astype(np.float32), rng.uniform(-1, 1, (64, 8, 4)).astype(np.float32)
    space = ActionSpace.fit(states, chunks, state_names=STATE_NAMES, action_names=ACTION_NAMES)
    policy.embodiments["metaworld"] = Embodiment("metaworld", space, 1 / 80, ("observation.images.head",))
    policy.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give --data"),
        ({"metaworld": True, "selection": EpisodeSelection("0:2")}, "--episodes without --data"),
        ({"data": Path("x"), "selection": EpisodeSelection("0"), "tasks": ("reach",)}, "add --benchmark"),
        ({"metaworld": True, "starts": -1}, "--starts -1: must be at least 0"),
        ({"benchmark": "libro"}, r"benchmark .libro.: giza knows none of this name. Did you mean .libero."),
        ({"benchmark": "libero", "metaworld": True}, "give one of them"),
        ({"benchmark": "libero", "language_check": True}, "--language-check is of --benchmark metaworld"),
        ({"metaworld": True, "suite": "goal"}, "--suite is of --benchmark libero"),
    ],
)
def test_flags_that_do_not_fit_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(policy="p", out=tmp_path, **changes)


def test_open_loop_as_a_user_calls_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_policy().save_pretrained(tmp_path / "policy")
    root = lerobot_v3(tmp_path / "data")
    flags = [
        "--policy",
        str(tmp_path / "policy"),
        "--data",
        str(root),
        "--episodes",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    main([*flags, "--cache", str(tmp_path / "cache")])
    said, result = capsys.readouterr().out, json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert said.startswith(f"Open loop: {result['verdict']['open_loop']['headline']}.") and "repeat last action" in said
    assert result["training"] == {} and (tmp_path / "out" / "evaluation.html").is_file()
    found = result["open_loop"]
    assert found["samples"] == 23 and found["episodes"] == 1
    assert len(found["hold_still_is"]) == 2 and set(found["hold_still_is"]) <= {"state", "zero", "last"}
    assert (
        found["normalised_squared_error"]["policy"]["value"] > found["normalised_squared_error"]["repeat_last"]["value"]
    )
    plots = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert set(plots) == {"open_loop_errors.png", "open_loop_episode_000001.png", "contact_sheet_episodes.png"}
    main([*flags, "--cache", str(tmp_path / "nowhere")])  # nothing to do: not even images are decoded
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())["open_loop"]
    assert again == found and not (tmp_path / "nowhere").exists()
    assert plots == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}


def test_the_wrong_robot_is_named(tmp_path: Path) -> None:
    made_policy().save_pretrained(tmp_path / "two_link")
    policy, fingerprint = load_acting(str(tmp_path / "two_link"), device="cpu")
    assert embodiment_of(policy, "") == "two_link" and load_acting(str(tmp_path / "two_link"))[1] == fingerprint
    assert load_acting(str(metaworld_policy(tmp_path / "other")))[1] != fingerprint
    with pytest.raises(ValueError, match="trained on two_link"):
        embodiment_of(policy, "gr1")
    with pytest.raises(
        ValueError, match=r"'two_link' is not Meta-World's robot: its state \[hand_x_m, .*state.0, state.1, state.2"
    ):
        metaworld_act(policy, "two_link")
    with pytest.raises(ValueError, match="lacks config.json"):
        load_acting(str(tmp_path))


def test_meta_world_is_seen_and_done_in_the_order_of_the_policys_names() -> None:
    """M2, M3: places were taken for names, and one camera of several could not act."""
    policy = build_policy(RECIPES["debug"].policy)
    policy.add_embodiment("metaworld")
    names = [f"robot.{name}" for name in reversed(STATE_NAMES)], ["expert.gripper", "expert.x", "expert.y", "expert.z"]
    space = ActionSpace.fit(np.eye(11), np.ones((11, 8, 4)), state_names=names[0], action_names=names[1])
    policy.embodiments["metaworld"] = Embodiment("metaworld", space, 1 / 80, ("images.wrist", "images.head"))
    given: dict[str, Any] = {}

    def answer(images: Any, mask: Any, instruction: Any, state: Any, embodiment: str, *, noise: Any) -> Any:
        given.update(images=images.numpy(), mask=mask.numpy(), state=state)
        return np.tile(np.float32([4, 1, 2, 3]), (1, 8, 1))  # as the policy orders them

    policy.act_batch = answer  # type: ignore[method-assign]
    image, state = np.full((1, 1, 1, 3, 32, 32), 7, np.uint8), np.arange(11, dtype=np.float32)[None]
    seen = Observations(image, np.ones((1, 1, 1), np.bool_), ["pull"], state, ["reach"], [0], [0])
    chunk = metaworld_act(policy, "metaworld")(seen)
    assert chunk[0, 0].tolist() == [1, 2, 3, 4]
    assert given["state"][0].tolist() == list(range(10, -1, -1))
    assert given["images"][0, :, 0, 0, 0, 0].tolist() == [0, 7] and given["mask"][0, :, 0].tolist() == [False, True]
    with pytest.raises(ValueError, match=r"the cameras \[corner\] are none of .*images.head"):
        metaworld_act(policy, "metaworld", camera="corner")


def test_noise_in_meta_world_is_of_task_start_instruction_and_chunk() -> None:
    """M13: it was of the place in the batch."""
    policy = build_policy(RECIPES["debug"].policy)
    policy.add_embodiment("metaworld")
    space = ActionSpace.fit(np.eye(11), np.ones((11, 8, 4)), state_names=STATE_NAMES, action_names=ACTION_NAMES)
    policy.embodiments["metaworld"] = Embodiment("metaworld", space, 1 / 80, ("head",))
    drawn: list[Any] = []

    def answer(images: Any, mask: Any, instruction: Any, state: Any, embodiment: str, *, noise: Any) -> Any:
        drawn.extend(noise)
        return np.zeros((len(noise), 8, 4), np.float32)

    policy.act_batch = answer  # type: ignore[method-assign]
    act = metaworld_act(policy, "metaworld", seed=4)
    rows = [("reach", 0, "reach it", 0), ("push", 0, "reach it", 0), ("reach", 1, "reach it", 0), ("reach", 0, "", 0)]
    rows = [*rows, ("reach", 0, "reach it", 1)]

    def asked(some: list[tuple[str, int, str, int]]) -> list[Any]:
        task, start, text, chunk = (list(column) for column in zip(*some, strict=True))
        image, there = np.zeros((len(some), 1, 1, 3, 32, 32), np.uint8), np.ones((len(some), 1, 1), np.bool_)
        drawn.clear()
        act(Observations(image, there, text, np.zeros((len(some), 11), np.float32), task, start, chunk))
        return list(drawn)

    together = asked(rows)
    assert len(set(together)) == len(rows)
    assert asked(rows[::-1]) == together[::-1] and [asked([row])[0] for row in rows] == together


def test_latent_actions_are_no_robot_that_could_be_meant() -> None:
    policy = made_policy()
    policy.embodiments["latent"] = policy.embodiments["two_link"]
    assert embodiment_of(policy, "") == "two_link"
    policy.embodiments["gr1"] = policy.embodiments["two_link"]
    with pytest.raises(ValueError, match="this policy knows two_link, gr1; name one"):
        embodiment_of(policy, "")


def test_images_are_resized_each_for_itself() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 3, 3, 64, 64), np.uint8)
    small = resized(images, 32)
    assert small.shape == (2, 1, 3, 3, 32, 32)
    means = images.reshape(2, 1, 3, 3, 32, 2, 32, 2).mean((5, 7))
    assert np.abs(small - means).max() <= 1
    assert resized(images, 64) is images


def test_a_closed_loop_of_void_rollouts_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    opened = {"samples": 3, "settings": {"open_loop_format": OPEN_LOOP_FORMAT}}
    closed = {"success": {}, "settings": {"rollout_format": ROLLOUT_FORMAT}}
    assert _comparable({"open_loop": opened, "closed_loop": closed, "seed": 0}) == {
        "open_loop": opened,
        "closed_loop": closed,
    }
    assert not caplog.records
    for settings in ({}, {"rollout_format": ROLLOUT_FORMAT - 1}):
        assert _comparable({"open_loop": opened, "closed_loop": {**closed, "settings": settings}}) == {
            "open_loop": opened
        }
    assert "measure it again" in caplog.text and len(caplog.records) == 2
    assert _comparable({"open_loop": {"samples": 3, "settings": {}}}) == {} and "again with --data" in caplog.text


@pytest.mark.gl
def test_closed_loop_goes_on_where_it_was_and_records_what_it_did(tmp_path: Path) -> None:
    policy, out = metaworld_policy(tmp_path / "policy"), tmp_path / "out"
    fields: dict = {"policy": str(policy), "out": out, "metaworld": True, "tasks": ("faucet-open",), "size": 32}
    fields |= {"max_steps": 16, "workers": 1, "language_check": True}
    found = run(EvaluateConfig(starts=1, **fields), quiet=True)["closed_loop"]
    assert found["success"]["faucet-open"]["trials"] == 1 and found["language"]["compliance"]["trials"] == 2
    assert found["language"]["blank"]["trials"] == 1
    lines = (out / "rollouts.jsonl").read_text().splitlines()
    assert len(lines) == 4
    films = sorted(path.name for path in (out / "films").iterdir())
    assert films == [
        f"faucet-open_000_{words}.mp4" for words in ("close-the-faucet", "nothing-said", "open-the-faucet")
    ]
    with av.open(str(out / "films" / films[0])) as film:
        assert sum(1 for _ in film.decode(video=0)) == 5 + 10  # at 0, 4, ..., 16 steps, then the last one stays
    record = json.loads((out / "evaluation.json").read_text())
    other = {**opened(0.2, 0.3), "settings": {"open_loop_format": OPEN_LOOP_FORMAT, "of": "another call"}}
    (out / "evaluation.json").write_text(json.dumps({**record, "open_loop": other}))
    assert (out / "contact_sheet.png").stat().st_size > 1000
    (out / "rollouts.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # killed while it wrote
    both = run(EvaluateConfig(starts=2, **fields), quiet=True)
    more = both["closed_loop"]
    assert both["open_loop"] == other and set(both["verdict"]) == {"open_loop", "closed_loop"}
    page = (out / "evaluation.html").read_text("utf-8")
    assert page.count('<video src="data:video/mp4') == 3 and "Errors beside the baselines" in page
    assert (out / "rollouts.jsonl").read_text().splitlines()[:3] == lines[:3]
    assert more["success"]["faucet-open"]["trials"] == 2 and more["language"]["compliance"]["trials"] == 4
    assert run(EvaluateConfig(starts=2, **fields), quiet=True)["closed_loop"]["control_steps_per_s"] is None
    with pytest.raises(ValueError, match=r"another execute \(8 there, 4 here\)"):
        run(EvaluateConfig(starts=2, execute=4, **fields), quiet=True)


@pytest.mark.gl
def test_a_rollout_does_not_depend_on_what_else_plays(tmp_path: Path) -> None:
    """Two slots, one slot and what a resumed job has left: noise is of the rollout and its chunk."""
    policy, _ = load_acting(str(metaworld_policy(tmp_path)), device="cpu")
    act = metaworld_act(policy, "metaworld", seed=4)

    def rollouts(slots: int, skip: set[tuple[str, int, str]] = frozenset()) -> dict:  # type: ignore[assignment]
        settings = ClosedLoopSettings(
            ("reach",), 2, execute=4, max_steps=24, look=Look(32), videos=2, workers=1, slots=slots
        )
        return {each.key: each.frames for each in play(act, settings, skip=skip)}

    together = rollouts(2)
    assert len({frames[-1].tobytes() for frames in together.values()}) == 2
    for others in (rollouts(1), rollouts(2, set(list(together)[:1]))):
        for key, frames in others.items():
            np.testing.assert_array_equal(frames, together[key])
