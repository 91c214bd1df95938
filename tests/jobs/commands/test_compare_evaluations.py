"""Evaluations side by side: the figures are theirs, differences are said where intervals do not meet, and what was measured on
other data or starts is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpora.episodes.selection import EpisodeSelection
from corpora.store.files import plain, write_json
from jobs.cli import main
from jobs.commands.compare import CompareConfig, run
from jobs.commands.evaluate import EvaluateConfig
from jobs.commands.evaluate import run as evaluate
from jobs.evaluation.open_loop import Chunks, compare
from jobs.evaluation.rollout_log import ROLLOUT_FORMAT
from jobs.evaluation.side_by_side import Cell, EvaluationComparison, Part, Row
from jobs.evaluation.statistics import wilson
from tests.builders.datasets import lerobot_v3
from tests.jobs.evaluation.test_page import made_policy

TASKS = ("drawer-open", "door-open")


def open_loop(off: float) -> dict[str, Any]:
    """Of a policy whose actions are off by about `off`, and of holding still, on five episodes."""
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(5), 20)
    action = rng.normal(size=(100, 4, 2)).astype(np.float32)
    known = np.ones((100, 4), np.bool_)
    truth = Chunks(None, action[:, 0], action, known, episode, np.tile(np.arange(20) / 10, 5))
    noise = rng.normal(size=action.shape) * (1 + 0.1 * episode[:, None, None])
    predictions = {"policy": action + off * noise, "hold_still": np.zeros_like(action)}
    found = compare(predictions, truth, np.ones(2), ("x", "y"), still_rules=("zero", "zero"))
    settings = {"data": "g1", "data_contents": "abc", "every": 2, "open_loop_format": 1}
    return {"settings": settings, **plain(found.to_json()), "standing": "held out"}


def closed_loop(successes: tuple[int, int]) -> dict[str, Any]:
    shares = dict(zip(TASKS, (wilson(count, 20) for count in successes), strict=True)) | {
        "all": wilson(sum(successes), 40)
    }
    settings = {
        "rollout_format": ROLLOUT_FORMAT,
        "seed": 0,
        "starts": 20,
        "max_steps": 250,
        "camera": "head",
        "size": 96,
        "execute": 8,
        "step_s": 0.05,
    }
    return {
        "settings": settings,
        "success": {name: share.to_json() for name, share in shares.items()},
        "mean_seconds": {},
    }


def record(off: float, successes: tuple[int, int]) -> dict[str, Any]:
    said = {"open_loop": {"headline": "better than holding still", "kind": "good", "reasons": []}}
    parts = {"open_loop": open_loop(off), "closed_loop": closed_loop(successes)}
    return {"policy": "runs/p", "fingerprint": f"{off:.2f}", "training": {"recipe": "bc"}, "verdict": said, **parts}


def written(root: Path, **records: dict[str, Any]) -> tuple[Path, ...]:
    for name, each in records.items():
        (root / name).mkdir(parents=True)
        write_json(root / name / "evaluation.json", each)
    return tuple(root / name for name in records)


def test_figures_stand_beside_each_other_with_their_baselines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, alike, bad = record(0.2, (20, 19)), record(0.205, (19, 19)), record(0.6, (4, 5))
    folders = written(tmp_path, good=good, alike=alike, bad=bad)
    found = run(CompareConfig(folders, tmp_path / "out"))
    assert isinstance(found, EvaluationComparison)
    rows = {(part.title.split(",")[0], row.title): row for part in found.parts for row in part.rows}
    error = rows["Open loop", "policy"]
    for name, each in (("good", good), ("bad", bad)):
        theirs = each["open_loop"]["normalised_squared_error"]["policy"]
        cell = error.cells[name]
        assert (cell.value, [cell.low, cell.high]) == (theirs["value"], theirs["bootstrap95"])
    assert [error.standing(name) for name in ("good", "alike", "bad")] == ["best", "not shown", "worse"]
    assert len({cell.value for cell in rows["Open loop", "hold still"].cells.values()}) == 1
    assert rows["Open loop", "policy / holding still"].standing("good") == ""  # what it beats is told by the row above
    success = rows["Closed loop", "all"]
    assert success.cells["bad"].told == "9 of 40 [12%, 38%]"
    assert [success.standing(name) for name in ("good", "alike", "bad")] == ["best", "not shown", "worse"]
    assert [row.title for row in found.parts[0].rows] == ["all", *TASKS]
    page = (tmp_path / "out" / "compare.html").read_text("utf-8")
    assert page.index('class="bars"') < page.index("<table")  # a picture first
    said = re.sub(r"\s+", " ", page)
    assert "9 of 40 [12%, 38%]" in said and "http" not in page and "<script" not in page and "hold still" in said
    told = capsys.readouterr().out
    assert "9 of 40" in told and "worse" in told and "not shown" in told and "better than holding still" in told
    kept = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert kept["parts"][1]["rows"][0]["cells"]["good"]["value"] == error.cells["good"].value


@pytest.mark.parametrize(
    ("part", "path", "value", "told"),
    [
        (
            "open_loop",
            "settings/data_contents",
            "def",
            r"another dataset than 'a' \(def, there abc\): evaluate both with the same --data",
        ),
        ("open_loop", "episode_numbers", [0, 1], "another set of episodes than 'a'"),
        ("open_loop", "settings/every", 1, "another --every than 'a'"),
        ("open_loop", "std", [2.0, 1.0], "another scale of the action"),
        ("closed_loop", "settings/seed", 3, r"another seed of the starts than 'a' \(3, there 0\).*same --benchmark"),
        ("closed_loop", "settings/starts", 5, "another number of starts"),
        ("closed_loop", "settings/rollout_format", 1, "another format"),
    ],
)
def test_other_data_or_starts_are_refused(tmp_path: Path, part: str, path: str, value: Any, told: str) -> None:
    one = record(0.2, (20, 19))
    other = copy.deepcopy(one)
    *inside, last = path.split("/")
    place = other[part]
    for name in inside:
        place = place[name]
    place[last] = value
    folders = written(tmp_path, a=one, b=other)
    with pytest.raises(ValueError, match=f"'b' was measured with {told}"):
        run(CompareConfig(folders, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_part_that_one_lacks_is_left_out_and_none_in_common_is_refused(tmp_path: Path) -> None:
    whole, rollouts, recorded = (record(0.2, (20, 19)) for _ in range(3))
    del rollouts["open_loop"], recorded["closed_loop"]
    folders = written(tmp_path, whole=whole, rollouts=rollouts, recorded=recorded)
    found = run(CompareConfig(folders[:2], tmp_path / "out"))
    assert isinstance(found, EvaluationComparison) and len(found.parts) == 1
    assert list(found.notes) == ["Open loop: only of whole, so it is left out."]
    with pytest.raises(ValueError, match="no part in common .rollouts: closed_loop; recorded: open_loop."):
        run(CompareConfig(folders[1:], tmp_path / "out"))


def test_reports_and_evaluations_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (evaluation,) = written(tmp_path, a=record(0.2, (20, 19)))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "out")
    assert main(["compare", str(evaluation), str(tmp_path / "report"), "--out", out]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "reports and evaluations are of different things" in said
    assert main(["compare", str(evaluation), str(tmp_path / "empty"), "--out", out]) == 2
    assert (
        "holds no report.json and no evaluation.json: make it with giza report, or giza evaluate"
        in capsys.readouterr().err
    )
    assert main(["compare", str(evaluation), "--out", out]) == 2
    assert "give at least two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_giza_evaluate_writes_is_compared(tmp_path: Path) -> None:
    """Of one episode, so without intervals."""
    data = lerobot_v3(tmp_path / "data")
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made_policy().save_pretrained(tmp_path / f"policy{seed}")
        config = EvaluateConfig(
            policy=str(tmp_path / f"policy{seed}"),
            out=tmp_path / f"out{seed}",
            data=data,
            selection=EpisodeSelection("1"),
            cache=tmp_path,
            plots=0,
        )
        evaluate(config, quiet=True)
        folders.append(config.out)
    found = run(CompareConfig(tuple(folders), tmp_path / "compare"))
    assert isinstance(found, EvaluationComparison)
    (part,) = found.parts
    first = part.rows[0]
    assert first.cells["out0"].value != first.cells["out1"].value and first.cells["out0"].low is None
    assert sorted(first.standing(name) for name in first.cells) == ["", "best"]
    assert any("out0, open loop: its policy has 1 episode" in note for note in found.notes)


@pytest.mark.parametrize("highest", [0.02, 0.39, 0.41, 1.0, 1.76, 7.3])
def test_the_bars_scale_ends_behind_them_and_its_ticks_are_what_is_written(highest: float) -> None:
    row = Row("policy", "policy", {"a": Cell(highest / 2, 0.0, highest, ""), "b": Cell(None)}, "lower")
    part = Part("open loop", "", [row])
    assert part.scale >= highest and len(part.bars) == 1
    assert np.allclose(np.diff(part.ticks), part.ticks[1]) and part.ticks[-1] == pytest.approx(part.scale)
    share = Part("closed loop", "", [dataclasses.replace(row, better="higher")])
    assert share.ticks == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
