"""The jobs as functions: what a notebook calls is what the command does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import jobs
from corpora.clips.corpus import Corpus
from jobs.commands.ground import GroundConfig
from jobs.commands.train_lam import TrainLamConfig
from jobs.functions import configured, folder_of
from jobs.results import Result
from lapa.recipes import RECIPES
from tests.builders.corpora import write_corpus
from tests.builders.datasets import CAMERAS, ONE_TASK, lerobot_v3
from vla.recipes import FIELDS

MODELS = {name: vars(recipe) for name, recipe in RECIPES.items()}


def test_importing_jobs_costs_nothing() -> None:
    code = (
        "import jobs, sys; print([n for n in ('torch', 'numpy', 'rich', 'tyro') if n in sys.modules]); "
        "from jobs.ablation import ARMS, Arm; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[0] == "[]", done.stderr
    for name in jobs.__all__:
        assert getattr(jobs, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'gruond'"):
        _ = jobs.gruond  # type: ignore[attr-defined]


def test_arguments_change_what_the_recipe_says_and_nothing_else() -> None:
    given = {
        "corpus": "c",
        "out": "~/o",
        "minutes": 8,
        "training": {"lr": 0.5},
        "model": {"quantiser": {"kind": "fsq"}},
    }
    config = configured(TrainLamConfig, given, recipe="debug", recipes=MODELS)
    debug = RECIPES["debug"]
    assert (config.recipe, config.minutes, config.out) == ("debug", 8, Path("~/o").expanduser())
    assert config.training == dataclasses.replace(debug.training, lr=0.5)
    quantiser = dataclasses.replace(debug.model.quantiser, kind="fsq")
    assert config.model == dataclasses.replace(debug.model, quantiser=quantiser)
    selected = configured(
        GroundConfig, {"data": "d", "out": "o", "demos": 10, "cameras": ["head"]}, recipe="small", recipes=FIELDS
    )
    assert (selected.selection.demos, selected.selection.cameras) == (10, ("head",))


@pytest.mark.parametrize(
    ("given", "recipe", "said"),
    [
        ({"minuts": 8}, "small", "no field 'minuts' of this job. Did you mean 'minutes'?"),
        ({"training": {"lrr": 1}}, "small", "TrainingConfig has no field 'lrr'. Did you mean 'lr'?"),
        ({}, "smal", "recipe 'smal': Did you mean 'small'?"),
        ({"steps": 0}, "small", "--steps 0: at least 1"),
    ],
)
def test_wrong_arguments_are_refused_with_the_nearest(given: dict, recipe: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        configured(TrainLamConfig, {"corpus": "c", "out": "o", **given}, recipe=recipe, recipes=MODELS)
    assert said in str(refused.value)


def test_a_notebook_trains_fine_tunes_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIZA_CACHE", str(tmp_path / "cache"))
    from corpora.mixture.mixture import read_mixture

    data = lerobot_v3(tmp_path / "pick", tasks=ONE_TASK)
    (tmp_path / "pyramid.toml").write_text(
        f'[[member]]\nname = "pick"\ntier = "robot"\nlabel = "action"\ndataset = "{data}"\nembodiment = "two_link"\n'
        f'cameras = ["{CAMERAS[0]}"]\n'
    )
    mixture = read_mixture(tmp_path / "pyramid.toml")
    short = {"recipe": "debug", "steps": 2, "training": {"val_every_steps": 2}}
    base = jobs.pretrain(mixture, out=tmp_path / "base", **short)
    assert base.held_out["val/action_loss/pick"] > 0 and list(base.model.embodiments) == ["two_link"]
    tuned = jobs.ground(
        data,
        out=tmp_path / "tuned",
        policy=base.model,
        embodiment="two_link",
        episodes="1",
        cameras=[CAMERAS[0]],
        **short,
    )
    assert tuned.summary["steps"] == 2 and (tmp_path / "tuned" / "start" / "model.safetensors").is_file()
    result = jobs.evaluate(tuned.model, out=tmp_path / "eval", data=data, every=20, quiet=True)
    figure = result.open_loop.plot()
    assert "1 held-out episode" in figure.axes[0].get_title()
    assert (
        result.open_loop.overall["policy"].value
        == result.summary["open_loop"]["normalised_squared_error"]["policy"]["value"]
    )
    with pytest.raises(ValueError, match="no closed loop was measured"):
        _ = result.closed_loop
    again = jobs.ground(
        data, out=tmp_path / "tuned", policy=base, embodiment="two_link", episodes="1", cameras=[CAMERAS[0]], **short
    )
    assert again.summary["steps"] == 2


def test_a_job_reads_from_what_was_opened_as_from_its_folder(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", [0, 1])
    for place in (folder, str(folder), Corpus(folder), Result(folder, {})):
        assert folder_of(place) == folder
