"""J1: a policy stores what it was trained on and what was held out, and an evaluation says which of them it looked at."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpora.episodes.selection import EpisodeSelection, spans
from jobs.commands import evaluate, ground
from jobs.evaluation.open_loop import episodes_told
from tests.builders.robots import MARK, know_made_robots, made_robot
from vla.checkpoint import load_policy
from vla.recipes import recipe_named
from vla.trained_on import DATA, TrainedOn, known_of, numbers_of


def test_numbers_are_kept_as_spans() -> None:
    assert spans([7, 1, 0, 2, 9]) == ("0:3", "7", "9") and spans([]) == ()
    assert numbers_of(("0:3", "7")) == {0, 1, 2, 7} and numbers_of(()) == set()


def record(trained: str, held_out: str, fingerprint: str = "now") -> TrainedOn:
    return TrainedOn("demonstrations", "pick", fingerprint, "arm", "episodes", (trained,), (held_out,))


def test_what_any_training_had_is_not_held_out() -> None:
    """A policy that was pretrained on what its grounding holds out has seen it."""
    known = known_of([record("0:6", "6:8"), record("0:4", "4:8")], "elsewhere", "now")
    assert known.trained == set(range(6)) and known.held_out == {6, 7}
    assert [known.standing(some) for some in ([6], [0, 5], [5, 6])] == ["held out", "trained on", "partly trained on"]


def test_of_other_data_nothing_was_trained_on_and_of_changed_data_it_is_not_known() -> None:
    assert known_of([record("0:6", "6:8")], "other", "there").standing([0]) == "other data"
    assert known_of([record("0:6", "6:8", "before")], "pick", "now").standing([7]) == "not known"
    assert known_of([], "pick", "now").standing([7]) == "not known"


def test_titles_say_it() -> None:
    assert (
        episodes_told(6, "held out") == "6 held-out episodes"
        and episodes_told(1, "trained on") == "1 trained-on episode"
    )
    assert "not known" in episodes_told(2, "not known")


@pytest.fixture
def grounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy of 8 episodes, of which 5 and 6 were held out."""
    know_made_robots(monkeypatch)
    rng = np.random.default_rng(0)
    made_robot(tmp_path / "pick", rng.normal(size=(8, 12, 2)), rng.normal(size=(8, 12, 2)))
    train(tmp_path, "run", "5:7")
    return tmp_path


def train(root: Path, out: str, held_episodes: str, policy: str = "") -> None:
    recipe = recipe_named("debug")
    config = ground.GroundConfig(
        data=root / "pick", out=root / out, cache=root / "cache", embodiment="arm", held_episodes=held_episodes,
        policy=policy, steps=1, model=recipe.policy, training=dataclasses.replace(recipe.training, batch_size=4),
    )  # fmt: skip
    ground.run(config, quiet=True)


def measured(root: Path, episodes: str = "", data: str = "pick", policy: str = "run") -> dict[str, Any]:
    config = evaluate.EvaluateConfig(
        policy=str(root / policy), out=root / f"{policy}{episodes.replace(':', '_')}{data}", data=root / data, plots=0, every=6,
        selection=EpisodeSelection(episodes, failures=True), cache=root / "cache",
    )  # fmt: skip
    return evaluate.run(config, quiet=True)["open_loop"]


def test_an_evaluation_looks_at_what_was_held_out_and_names_what_was_not(
    grounded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (stored,) = load_policy(grounded / "run").trained_on
    assert (stored.folder, stored.trained, stored.held_out) == ("pick", ("0:5", "7"), ("5:7",))
    found = measured(grounded)
    assert (found["standing"], found["settings"]["episodes"], found["episodes"]) == ("held out", "5:7", 2)
    assert "trained on" not in caplog.text
    assert measured(grounded, "0:2")["standing"] == "trained on" and "all 2 episodes were trained on" in caplog.text
    assert measured(grounded, "4:7")["standing"] == "partly trained on" and "were trained on: 4;" in caplog.text


def test_a_policy_that_is_trained_again_remembers_what_it_was_trained_on_before(grounded: Path) -> None:
    train(grounded, "again", "0:6", policy=str(grounded / "run"))
    assert [stored.trained for stored in load_policy(grounded / "again").trained_on] == [("0:5", "7"), ("6:8",)]
    assert measured(grounded, "0:2", policy="again")["standing"] == "trained on"
    assert measured(grounded, policy="again")["settings"]["episodes"] == "5"
    other = load_policy(grounded / "run")
    torch.nn.init.zeros_(next(other.parameters()))
    other.save_pretrained(grounded / "run")
    with pytest.raises(ValueError, match=r"other settings \(policy_fingerprint \w+ there and \w+ here\)"):  # V9
        train(grounded, "again", "0:6", policy=str(grounded / "run"))


def test_data_that_changed_or_are_not_the_policys_need_named_episodes(
    grounded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = json.loads((grounded / "pick" / MARK).read_text())
    facts["tasks"][0] = "another"
    (grounded / "pick" / MARK).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="stores no held-out episodes of this dataset; name some"):
        measured(grounded)
    assert measured(grounded, "5")["standing"] == "not known" and "'pick' has changed since" in caplog.text


def test_an_evaluation_of_data_that_changed_since_is_made_again(grounded: Path) -> None:
    """V9's kind: the same command gave back what had been measured on the data of before."""
    before = measured(grounded, "5:7")
    assert measured(grounded, "5:7") == before and before["standing"] == "held out"
    facts = json.loads((grounded / "pick" / MARK).read_text())
    facts["tasks"][0] = "another"
    (grounded / "pick" / MARK).write_text(json.dumps(facts))
    assert measured(grounded, "5:7")["standing"] == "not known"


def test_damaged_records_are_refused_and_those_of_an_older_giza_are_none(grounded: Path) -> None:
    path = grounded / "run" / DATA
    path.write_text("{")
    with pytest.raises(ValueError, match=rf"{DATA}: damaged"):
        load_policy(grounded / "run")
    path.unlink()
    assert load_policy(grounded / "run").trained_on == ()
