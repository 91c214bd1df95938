"""The `giza` command: what it answers, and that it answers without what computes."""

from __future__ import annotations

import importlib
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli
from jobs.ablation.config import RECIPES as ABLATIONS
from jobs.benchmarks.command import BENCHES
from lapa.recipes import RECIPES as MODELS
from vla.models.config import PolicyConfig
from vla.recipes import RECIPES as POLICIES

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "lightning", "transformers", "sklearn", "scipy", "mujoco", "matplotlib")
"""What takes seconds to import, and no help needs."""
ASKED = [*cli.JOBS, *(f"bench {name}" for name in BENCHES)]
RECIPES = {"train-lam": MODELS, "pretrain": POLICIES, "ground": POLICIES, "ablate": ABLATIONS}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


ASK = f"""
import os, sys
import tyro
from jobs import cli
for job in {ASKED}:
    print("\\0" + job, flush=True)
    if os.fork() == 0:
        try:
            cli.main([*job.split(), "--help"])
        except SystemExit:
            pass
        print("loaded", [name for name in {HEAVY} if name in sys.modules], flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each job answers, by a process of its own: forked from one that has loaded the command alone."""
    done = python(ASK)
    assert done.returncode == 0, done.stderr
    return dict(told.split("\n", 1) for told in done.stdout.split("\0")[1:])


@pytest.mark.parametrize("job", ASKED)
def test_help_is_answered_without_what_computes(job: str, helps: dict[str, str]) -> None:
    """Importing the job, and parsing, load none of it."""
    assert helps[job].splitlines()[-1] == "loaded []"
    assert "usage: giza" in helps[job]
    for recipe in RECIPES.get(job, ()):
        assert re.search(rf"Recipes:.*\b{re.escape(recipe)}\b", " ".join(helps[job].split()))


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "EXPERIMENTS.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_code_are_closed_and_hold_something(page: Path) -> None:
    """One that is not closed turns the rest of the page into code."""
    opened, held = "", False
    for number, line in enumerate(page.read_text("utf-8").splitlines()):
        if line.startswith("```"):
            assert not opened or held, f"line {number + 1}: an empty block"
            opened, held = "" if opened else line, False
        elif opened:
            held |= bool(line.strip())
    assert not opened


def test_readme_shows_what_the_demo_prints() -> None:
    shown = (ROOT / "README.md").read_text("utf-8").split("```")[1]
    assert "giza report" in shown and "Trust" in shown


def commands() -> list[str]:
    """The lines of README and of docs/ that call giza, each once."""
    lines = list(dict.fromkeys(line for page in PAGES for line in page.read_text("utf-8").splitlines()))
    return [line.strip().split("  #")[0] for line in lines if re.match(r"    giza ", line)]


@pytest.mark.parametrize("line", commands())
def test_readme_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *rest = shlex.split(line)[1:]
    place = cli.JOBS[name][0]
    module = importlib.import_module(f"{place}_libero" if name == "simulate" and "libero" in rest else place)
    parsed = []
    monkeypatch.setattr(module, "run", lambda config, **_: parsed.append(config) or sys.exit(0))
    monkeypatch.setattr("jobs.training.settings.expect_input", lambda *asked, **how: None)  # runs/base is nowhere yet,
    monkeypatch.setattr(cli, "expect_inputs", lambda config: None)  # and what else is read
    monkeypatch.setattr(cli, "expect_words", lambda config_type, value_of: None)
    monkeypatch.setattr("vla.stored.policy_config", lambda name: PolicyConfig())
    with pytest.raises(SystemExit) as left:
        module.main(rest)
    assert left.value.code == 0 and len(parsed) == 1


def test_readme_names_every_job() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(commands()) > 5
    assert [name for name in cli.JOBS if f"`giza {name}`" not in text and f"    giza {name}" not in text] == ["demo"]


def test_every_recipe_of_latent_models_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that need another flag, too: a second stage its first."""
    from jobs.commands import train_lam

    asked: list[train_lam.TrainLamConfig] = []
    monkeypatch.setattr(train_lam, "run", lambda config: asked.append(config) or {})
    for name in MODELS:
        train_lam.main(["--corpus", str(tmp_path), "--out", "o", "--recipe", name, "--init-from", str(tmp_path)])
        assert asked[-1].model == MODELS[name].model and asked[-1].init_from == tmp_path


def test_an_unknown_job_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extrat"]) == 2
    assert "Did you mean 'extract'?" in capsys.readouterr().err


def test_an_unknown_recipe_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-lam", "--recipe", "smal", "--corpus", "x", "--out", "y"]) == 2
    assert "--recipe 'smal': Did you mean 'small'?" in capsys.readouterr().err


def test_a_recipe_fills_the_flags_that_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "expect_inputs", lambda config: None)
    monkeypatch.setattr(cli, "expect_words", lambda config_type, value_of: None)
    from jobs.commands.train_lam import TrainLamConfig

    recipes = {name: vars(recipe) for name, recipe in MODELS.items()}
    argv = ["--corpus", "c", "--out", "o", "--recipe=debug", "--training.lr", "0.5"]
    config = cli.parse(TrainLamConfig, argv, job="train-lam", recipes=recipes)
    debug = MODELS["debug"]
    assert (config.recipe, config.model, config.training.steps) == ("debug", debug.model, debug.training.steps)
    assert config.training.lr == 0.5 != debug.training.lr


def test_a_users_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["train-lam", "--corpus", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("giza train-lam: ")
    assert "giza ingest" in said
    assert len(said.strip().splitlines()) == 1


def test_a_machines_error_is_one_line_and_status_1(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.commands import pyramid

    def full(argv: list[str]) -> None:
        raise OSError(28, "No space left on device", "out/part")

    monkeypatch.setattr(pyramid, "main", full)
    assert cli.main(["pyramid", "x.toml"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("giza pyramid: [Errno 28] No space left on device: 'out/part'")
    assert len(said.strip().splitlines()) == 1


def test_help_and_version_in_every_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["-h"], ["--help"], ["help"]):
        assert cli.main(words) == 0
        assert "train-lam" in capsys.readouterr().out
    for word in ("-V", "--version"):
        assert cli.main([word]) == 0
        assert re.fullmatch(r"giza \d+\.\d+\S*\n", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        cli.main(["help", "extract"])
    assert "usage: giza extract" in capsys.readouterr().out


def test_quiet_prints_errors_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sample = ROOT / "corpora" / "sample" / "robot_still"
    (tmp_path / "pyramid.toml").write_text(
        f'[[member]]\nname = "robot"\ntier = "robot"\nlabel = "action"\ndataset = "{sample}"\nembodiment = "metaworld"\n'
    )
    assert cli.main(["pyramid", str(tmp_path / "pyramid.toml"), "--quiet"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["pyramid.toml"]  # nothing is written beside the input
    assert cli.main(["pyramid", str(tmp_path / "nothing.toml"), "--quiet"]) == 2
    assert "nothing.toml" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error() -> None:
    words = f"{shlex.quote(sys.executable)} -m jobs.cli extract --help | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_no_color_is_heeded_by_help() -> None:
    coloured = "import sys; sys.stdout.isatty = lambda: True; from jobs import cli; cli.main(['evaluate', '--help'])"
    for value, found in (("", True), ("1", False)):
        done = python(f"import os; os.environ.update(TERM='xterm', NO_COLOR={value!r}); {coloured}")
        assert ("\x1b[" in done.stdout) == found and "--starts" in done.stdout, done.stderr


def test_a_quiet_job_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    logger = logging.getLogger("corpora")
    before = logger.level
    assert cli.main(["pyramid", str(tmp_path / "none.toml"), "--quiet"]) == 2
    assert logger.level == before != logging.ERROR
