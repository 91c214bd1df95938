"""The `giza` command: picks a job by name, parses its frozen config with tyro, and turns a user's error into one line.

A job module has a docstring (its first line is the help text) and `main(argv)`, which may return a status of its own.
Jobs are imported only when they are called, and import what computes only when they run, so that `giza --help` and
`giza JOB --help` answer at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from corpora.store.inputs import expect_inputs, expect_output, expect_words, with_copies
from corpora.store.own_modules import load_own_modules
from corpora.store.remote import told
from corpora.store.told import closest

JOBS = {
    "demo": ("jobs.commands.demo", "run everything on the sample corpus and write report.html"),
    "simulate": (
        "jobs.commands.simulate",
        "Meta-World or LIBERO video whose actions are known, as a LeRobot v3.0 dataset",
    ),
    "multiply": ("jobs.commands.multiply", "demonstrations in new scenes (MimicGen), as a synthetic LeRobot dataset"),
    "ingest": ("jobs.commands.ingest", "any video to clean clips: shards, manifest, reasons"),
    "train-lam": ("jobs.commands.train_lam", "train a latent action model on an ingested corpus"),
    "extract": ("jobs.commands.extract", "latent actions of a corpus, as Parquet"),
    "report": ("jobs.commands.report", "may I trust these latents? report.json and report.html"),
    "export": ("jobs.commands.export", "latents, or a dataset, as other trainers read it: LeRobot v3.0, v2.1, GR00T"),
    "compare": ("jobs.commands.compare", "several reports, or evaluations, side by side; compare.html"),
    "track": (
        "jobs.commands.track",
        "where the agent is in every frame: mask and point, by hand tracker or from files",
    ),
    "crosspaint": (
        "jobs.commands.crosspaint",
        "another agent in a corpus: the robot over the person, nobody, or a dot",
    ),
    "label": (
        "jobs.commands.label",
        "pseudo-actions of a corpus by an inverse dynamics model or its tracks, as Parquet",
    ),
    "pretrain": ("jobs.commands.pretrain", "a policy on human video, synthetic and robot data in one mixture"),
    "ground": ("jobs.commands.ground", "fine-tune: few-demonstration post-training of a policy on one robot"),
    "evaluate": ("jobs.commands.evaluate", "open loop on held-out episodes, closed loop in Meta-World or LIBERO"),
    "serve": ("jobs.commands.serve", "a policy server in Isaac-GR00T's protocol"),
    "view": ("jobs.commands.view", "play clips or episodes beside their latents, states, actions and predictions"),
    "pyramid": ("jobs.commands.pyramid", "print and draw a pyramid file, and check it"),
    "ablate": ("jobs.ablation.command", "which tier buys what, at a matched budget, with seeds and intervals"),
    "bench": ("jobs.benchmarks.command", "throughput as a ratio to its limit, measured in one run"),
}

Config = TypeVar("Config")
Recipes = Mapping[str, Mapping[str, Any]]
"""Name -> the fields of a job's config that the recipe sets."""
Sets = Mapping[str, Callable[[str, Mapping[str, Any]], Mapping[str, Any]]]
"""Flag -> what makes, of its value, the defaults of other fields; they come before the recipe's."""


def parse(
    config_type: type[Config],
    argv: Sequence[str],
    *,
    job: str,
    recipes: Recipes | None = None,
    recipe: str = "small",
    sets: Sets = MappingProxyType({}),
) -> Config:
    """Parse `argv` into `config_type`; exits with status 2 and a usage message on a wrong flag.

    `recipes`: what --recipe chooses from, `recipe` its default; the fields of the chosen one are the defaults of the other
    flags, but for those that another flag `sets`. With --quiet nothing but errors is printed from here on. Raises ValueError
    for an unknown recipe, and for what is to be read and is not there.
    """
    import tyro

    from jobs.progress import VOICE

    words = [word for word in argv if word != "--quiet"]
    options: dict[str, Any] = {"args": words, "prog": f"giza {job}"}
    if recipes is not None:
        name = value_in(words, "recipe", recipe)
        if name not in recipes:
            raise ValueError(f"--recipe '{name}': {closest(name, recipes)}")
        if not {"-h", "--help"} & {*words}:
            expect_words(config_type, lambda flag: value_in(words, flag))  # before a policy is looked for on the hub
        fields = {"recipe": name, **recipes[name], **_set_by(sets, words, recipes[name])}
        options["default"] = _with_fields(config_type, fields)
        options["description"] = f"{config_type.__doc__}\n\nRecipes: {', '.join(recipes)}."
    config = with_copies(tyro.cli(config_type, **options))
    expect_inputs(config)
    expect_output(config, job.split()[0])
    VOICE.begin()
    if len(words) < len(argv):
        sys.stdout = sys.stderr = io.StringIO()
    return config


def value_in(argv: Sequence[str], flag: str, default: str = "") -> str:
    """The value of a flag that must be known before the other flags are."""
    for place, word in enumerate(argv):
        if word == f"--{flag}" and place + 1 < len(argv):
            return argv[place + 1]
        if word.startswith(f"--{flag}="):
            return word.split("=", 1)[1]
    return default


def _set_by(sets: Sets, argv: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, Any]:
    given = {flag: value for flag in sets if (value := value_in(argv, flag))}
    return {name: field for flag, value in given.items() for name, field in sets[flag](value, recipe).items()}


def _with_fields(config_type: type[Config], fields: Mapping[str, Any]) -> Config:
    import tyro

    known = dataclasses.fields(config_type)  # type: ignore[arg-type]
    empty = (dataclasses.MISSING, dataclasses.MISSING)
    required = {field.name: tyro.MISSING for field in known if (field.default, field.default_factory) == empty}
    return config_type(**{**required, **fields})


def usage() -> str:
    lines = ["usage: giza JOB [flags]", ""]
    lines += [f"  {name:<10} {text}" for name, (_, text) in JOBS.items()]
    lines += ["", "giza JOB --help lists a job's flags and recipes; --quiet prints errors alone; giza --version"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `giza` command; returns the exit status (2: the user's error, in one line; 1: the machine's)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if os.environ.get("NO_COLOR"):
        os.environ["PYTHON_TYRO_ANSI_CODES"] = "False"  # read when tyro is imported; it does not know NO_COLOR
    with _streams():
        if words[:1] == ["help"]:
            words = [*words[1:2], "--help"]
        if not words or words[0] in {"-h", "--help"}:
            print(usage())
            return 0
        if words[0] in {"-V", "--version"}:
            print(f"giza {importlib.metadata.version('giza')}")
            return 0
        return _call(words[0], words[1:])


def _call(name: str, argv: list[str]) -> int:
    errors = sys.stderr  # parse may silence the stream
    if name not in JOBS:
        print(f"giza: no job '{name}'. {closest(name, JOBS)}", file=errors)
        return 2
    level = logging.ERROR if "--quiet" in argv else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(_Told("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    loggers = [logging.getLogger(package) for package in ("corpora", "lapa", "flare", "vla", "jobs")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    # OpenMP threads that spin while they wait starve the loaders beside them; read when torch is first imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from jobs.progress import at_work

    try:
        with contextlib.nullcontext() if "--quiet" in argv else at_work(name):
            load_own_modules()
            return importlib.import_module(JOBS[name][0]).main(argv) or 0
    except BrokenPipeError:
        raise
    except (ValueError, FileNotFoundError) as error:
        print(f"giza {name}: {told(error)}", file=errors)
        return 2
    except OSError as error:
        print(f"giza {name}: {told(error)}; run the same command again once that is mended", file=errors)
        return 1
    except KeyboardInterrupt:
        print(f"giza {name}: stopped; run the same command again to resume", file=errors)
        return 130
    finally:  # what calls a job from Python hears what it heard before
        for logger, was in zip(loggers, before, strict=True):
            logger.setLevel(was)


class _Told(logging.Formatter):
    """Calls copies by their URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return told(super().format(record))


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Gives standard streams back as they were; a reader that has gone (`giza JOB --help | head`) is no error."""
    before = sys.stdout, sys.stderr
    try:
        yield
        before[0].flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), before[0].fileno())
        sys.exit(0)
    finally:
        sys.stdout, sys.stderr = before


if __name__ == "__main__":
    sys.exit(main())
