"""Throughput as a ratio to its limit, measured in one run."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from corpora.store.files import write_json
from corpora.store.inputs import READ
from corpora.store.kinds import expect_own
from corpora.store.provenance import provenance
from corpora.store.told import closest
from jobs.cli import parse

PIXEL_RECIPES = ("small", "lapa", "dreamdojo", "debug")
"""Of giza train-lam."""


@dataclass(frozen=True)
class BenchExtractConfig:
    """How near extraction comes to the speed of its slower stage."""

    lam: Path | None = None
    """Run folder of giza train-lam; by default a small model with random weights, which is as fast."""
    corpus: Path | None = None
    """Folder of giza ingest; by default the sample corpus, which is ingested first."""
    video: tuple[Path, ...] = ()
    """Videos to ingest first, instead of a corpus."""
    out: Path = Path("out/bench-extract")
    """Folder for bench.json and what had to be made first."""
    gap_s: float | None = None
    """Time between the frames of a pair in seconds; by default the model's."""
    stride_s: float = 0.1
    """Pairs of a clip begin at least this many seconds apart."""
    batch_size: int = 64
    """Pairs that go through the model at once."""
    workers: int | None = None
    """Threads that feed; by default as giza extract chooses."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""
    rounds: int = 5
    """Times that feed, model and whole are measured in turn."""
    seconds: float = 3.0
    """Least time of each measurement."""
    seed: int = 0
    """Of the random weights."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds {self.rounds}: must be at least 1; try 5")
        if self.seconds <= 0:
            raise ValueError(f"seconds {self.seconds}: must be above 0; try 3")
        if self.corpus is not None and self.video:
            raise ValueError("--corpus and --video exclude each other: give one of them")


@dataclass(frozen=True)
class BenchMachineConfig:
    """What the machine can do at most."""

    out: Path = Path("out/bench-machine")
    """Folder for bench.json."""
    device: Literal["", "cpu", "cuda"] = ""
    """Default: the GPU where there is one."""
    threads: int = 0
    """Cores of PyTorch; 0: all."""
    seconds: float = 2.0
    """Least time of each measurement."""
    seed: int = 0
    """Of the matrices."""


@dataclass(frozen=True)
class BenchTrainConfig:
    """How long the training of a latent action model waits for data, and how near it is to the machine's limit."""

    recipe: str = "small"
    """Of giza train-lam, one that sees pixels."""
    corpus: Path | None = field(default=None, metadata=READ)
    """Folder of giza ingest; by default the sample corpus, which is ingested first."""
    video: tuple[Path, ...] = field(default=(), metadata=READ)
    """Videos to ingest first, instead of a corpus."""
    out: Path = Path("out/bench-train")
    """Folder for bench.json, and the training."""
    steps: int = 60
    """Of the training."""
    batch_size: int = 0
    """Pairs; 0: the recipe's."""
    compiled: bool = False
    """Also the steps alone with torch.compile, which takes minutes to compile."""
    seed: int = 0
    """Of the weights and the order."""

    def __post_init__(self) -> None:
        if self.recipe not in PIXEL_RECIPES:
            raise ValueError(f"--recipe '{self.recipe}': {closest(self.recipe, PIXEL_RECIPES)}")
        if self.steps < 20:
            raise ValueError(f"--steps {self.steps}: at least 20, of which the first few are not timed")


@dataclass(frozen=True)
class BenchPolicyConfig:
    """How long a chunk takes, and where the time goes."""

    policy: str = ""
    """Run folder or hub name; empty: --recipe with random weights, which is as fast."""
    recipe: str = "small"
    """Name of a recipe of giza ground."""
    out: Path = Path("out/bench-policy")
    """Folder for bench.json."""
    cameras: int = 1
    """Images of one observation."""
    source_size: int = 480
    """Pixels of the camera's image, which is resized in preprocessing."""
    compiled: bool = True
    """Also with torch.compile."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations."""
    device: str = ""
    """cpu or cuda; default: the GPU where there is one."""
    repeats: int = 30
    """Chunks that are timed; medians are reported."""
    warmup: int = 5
    """Chunks before those."""
    threads: int = 0
    """Cores of the model; 0: all."""
    seed: int = 0
    """Of weights and images."""

    def __post_init__(self) -> None:
        for name in ("cameras", "source_size", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")


@dataclass(frozen=True)
class BenchAllConfig:
    """All of it in one run, as it is by default."""

    out: Path = Path("out/bench")
    """Folder; each bench has its own below it."""
    seed: int = 0
    """Of all."""


BENCHES: dict[str, tuple[str, type[Any], str]] = {
    "extract": ("extract", BenchExtractConfig, "pairs/s of giza extract over its slower stage alone"),
    "train": ("train", BenchTrainConfig, "pairs/s of giza train-lam over its steps alone; how long it waits for data"),
    "policy": ("policy", BenchPolicyConfig, "milliseconds of an action chunk by part, eager and compiled"),
    "machine": ("machine", BenchMachineConfig, "the ceilings: matrix products, a copy in memory"),
}
"""Name -> module of jobs.benchmarks with `run(config)` and `table(result)`, its config, and what it measures."""


def saved(config: Any, summary: dict[str, Any]) -> dict[str, Any]:
    """Writes bench.json to the bench's folder and returns what is in it but for the provenance."""
    summary |= {"config": dataclasses.asdict(config)}
    out = config.out.expanduser()
    expect_own(out, "bench")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "bench.json", summary | {"provenance": provenance()})
    return summary


def usage() -> str:
    told = {name: text for name, (_, _, text) in BENCHES.items()} | {"all": "one after another, as they are by default"}
    lines = ["usage: giza bench WHAT [flags]      (giza bench WHAT --help lists its flags)", ""]
    return "\n".join(lines + [f"  {name:<10} {text}" for name, text in told.items()])


def main(argv: Sequence[str]) -> None:
    """The job's command line. Raises ValueError for an unknown bench."""
    if not argv or argv[0] in {"-h", "--help"}:
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return
    name, rest = argv[0], argv[1:]
    if name == "all":
        every = parse(BenchAllConfig, rest, job="bench all")
        for each, (_, config_type, _) in BENCHES.items():
            _show(each, config_type(out=every.out / each, seed=every.seed))
        return
    if name not in BENCHES:
        raise ValueError(f"no bench '{name}'. {closest(name, (*BENCHES, 'all'))}")
    _show(name, parse(BENCHES[name][1], rest, job=f"bench {name}"))


def _show(name: str, config: Any) -> None:
    from rich.console import Console

    bench = importlib.import_module(f"jobs.benchmarks.{BENCHES[name][0]}")
    Console().print(bench.table(bench.run(config)))
