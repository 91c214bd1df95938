"""Curves go where they are told to: TensorBoard, Weights & Biases (a stand-in of its package), or nowhere."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from corpora.training_config import HIGHER
from jobs.cli import main
from jobs.commands import train_lam
from jobs.training.logs import check_logger
from tests.builders.lam import lam_settings

PICTURE = "val/first_second_decoded"
LOSS = "val/target_loss"


class FakeRun:
    """What of wandb's run is called."""

    def __init__(self, **given: Any) -> None:
        self.given, self.logged, self.metrics, self.finished = given, list[dict[str, Any]](), list[str](), False

    def define_metric(self, name: str, **how: Any) -> None:
        self.metrics.append(name)

    def log(self, values: dict[str, Any]) -> None:
        assert not self.finished
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Those that are begun."""
    found: list[FakeRun] = []
    fake: Any = ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)

    def init(**given: Any) -> FakeRun:
        found.append(FakeRun(**given))
        return found[-1]

    fake.init, fake.Image = init, lambda image: ("image", np.asarray(image))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return found


def trained(corpus: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return train_lam.run(dataclasses.replace(lam_settings(corpus, out), **changes), quiet=True)


def test_tensorboard_is_the_default_and_has_decoded_pairs(tiny_lam: Path) -> None:
    events = EventAccumulator(str(tiny_lam / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    assert PICTURE in events.Tags()["images"]
    shown = events.Images(PICTURE)[-1]
    assert shown.width > shown.height > 0 and shown.height % 3 == 0  # columns of three
    names = set(events.Tags()["scalars"])
    assert {LOSS, "val/copy_loss", f"val/perplexity{HIGHER}"} <= names


def test_wandb_hears_all_and_a_resumed_training_goes_on_in_its_run(
    tiny_corpus: Path, tmp_path: Path, runs: list[FakeRun]
) -> None:
    out = tmp_path / "lam"
    summary = trained(tiny_corpus, out, logger="wandb", steps=2)
    (run,) = runs
    assert run.finished and run.metrics == ["step", "*"]
    assert run.given["project"] == "giza" and run.given["name"] == "lam" and run.given["resume"] == "allow"
    assert not (out / "tensorboard").exists()
    heard = {name: value for values in run.logged for name, value in values.items()}
    assert heard[LOSS] == pytest.approx(summary["validation"][LOSS], abs=1e-4)
    kind, image = heard[PICTURE]
    assert kind == "image" and image.dtype == np.uint8 and image.shape[0] % 3 == 0 and image.shape[2] == 3
    assert all("step" in values for values in run.logged)
    trained(tiny_corpus, out, logger="wandb", steps=3)
    assert len(runs) == 2 and runs[1].given["id"] == run.given["id"] and runs[1].finished


def test_none_writes_no_logs_and_changes_nothing_else(tiny_corpus: Path, tmp_path: Path) -> None:
    summary = trained(tiny_corpus, tmp_path / "none", logger="none", steps=2)
    other = trained(tiny_corpus, tmp_path / "tensorboard", steps=2)
    assert summary["validation"] == other["validation"] and summary["model_hash"] == other["model_hash"]
    assert {path.name for path in (tmp_path / "none").iterdir()} == {
        path.name for path in (tmp_path / "tensorboard").iterdir()
    } - {"tensorboard"}
    again = trained(tiny_corpus, tmp_path / "none", steps=2)  # where it is told to is no setting of the run
    assert again["already_finished"]


def test_a_package_that_lacks_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    here, out = str(tmp_path), str(tmp_path / "out")
    for words in (
        ["train-lam", "--corpus", here],
        ["pretrain", "--pyramid", here],
        ["ground", "--policy", "", "--data", here],
    ):
        assert main([*words, "--out", out, "--logger", "wandb"]) == 2
        assert capsys.readouterr().err == (
            f"giza {words[0]}: --logger wandb: the package is not installed; pip install wandb, or take --logger tensorboard\n"
        )
    with pytest.raises(ValueError, match="--logger 'wandv'.*wandb"):
        check_logger("wandv")
