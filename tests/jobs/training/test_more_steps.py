"""M15: a run that goes on with other steps than before says what that does to its learning rate."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.commands import ground, train_lam
from tests.builders.lam import lam_settings
from tests.builders.robots import know_made_robots, made_robot
from vla.recipes import recipe_named

Train = Callable[[int], dict[str, Any]]
"""Steps -> the summary of the run that ends there."""


def grounding(root: Path) -> Train:
    data, recipe = (
        made_robot(root / "pick", None, np.random.default_rng(0).normal(size=(3, 12, 2))),
        recipe_named("debug"),
    )
    training = dataclasses.replace(recipe.training, lr=1e-3, warmup_share=0.0)
    base = ground.GroundConfig(
        data=data, out=root / "run", cache=root / "cache", embodiment="arm", model=recipe.policy, training=training
    )
    return lambda steps: ground.run(dataclasses.replace(base, steps=steps), quiet=True)


@pytest.fixture(params=["ground", "train-lam"])
def train(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    if request.param == "ground":
        know_made_robots(monkeypatch)
        return grounding(tmp_path)
    corpus = request.getfixturevalue("tiny_corpus")
    return lambda steps: train_lam.run(lam_settings(corpus, tmp_path / "run", steps=steps), quiet=True)


def test_other_steps_are_told_with_both_rates(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    assert train(4)["steps"] == 4 and "learning rate" not in caplog.text
    assert train(8)["steps"] == 8
    (said,) = [record.getMessage() for record in caplog.records if "goes on" in record.getMessage()]
    last, here = map(float, re.findall(r"from (\S+) to (\S+) there", said)[0])
    assert "goes on from step 4 with 8 steps in all" in said and here > 1.5 * last
    caplog.clear()
    assert train(2)["steps"] == 8
    assert "has 8 steps already, more than the 2 that are asked for" in caplog.text
