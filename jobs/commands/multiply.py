"""Demonstrations multiplied, as MimicGen does it: each is cut by the objects that it is about, its segments are moved to where
these stand in new scenes, and what succeeds there is kept, as a LeRobot v3.0 dataset."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from corpora.simulation.settings import MAX_STEPS, Choice, EpisodeSettings, Joining
from corpora.store.files import write_json
from corpora.store.inputs import READ
from corpora.store.run import dataset_run
from jobs.cli import parse
from jobs.commands.simulate import MODALITY, dataset_format, versions
from jobs.console import numbers_table, print_ending
from jobs.progress import bar

if TYPE_CHECKING:
    from corpora.episodes.lerobot_writer import LeRobotWriter
    from corpora.simulation.multiplied import SimulatedDataset

log = logging.getLogger(__name__)

SUMMARY = "multiply.json"
_SETTINGS = ".multiply-settings.json"
FORMAT = 1
"""Raised when the same flags give other files."""


@dataclass(frozen=True)
class MultiplyConfig:
    """Demonstrations of Meta-World in new scenes (MimicGen, arXiv 2310.17596). LIBERO is not read."""

    demos: Path = field(metadata=READ)
    """Dataset of `giza simulate`, with its actions; episodes that failed are no demonstrations."""
    into: int
    """Trajectories for each task, all of them new: at least as many as there are demonstrations of it."""
    out: Path
    """Folder of the dataset, for the synthetic tier; the same command again resumes."""
    tasks: tuple[str, ...] = ()
    """Some tasks of the dataset; default: all."""
    episodes: str = ""
    """Demonstrations by their numbers in the dataset, "0:20" or "0,3,5"; default: all that succeeded."""
    take: int = 0
    """The first so many demonstrations of each task; 0: all."""
    choice: Choice = "nearest"
    """nearest: in each scene one of the three demonstrations whose objects stood nearest; random: any."""
    noise: float = 0.05
    """Standard deviation of smooth noise on the action, which is in [-1, 1]; none on the lines between segments."""
    tries: int = 10
    """Scenes that are tried, for each trajectory wanted, before a task is left with fewer."""
    seed: int = 0
    """Of scenes, choices and noise; its scenes are never those of `giza simulate` or `giza evaluate`."""
    joining: Annotated[Joining, tyro.conf.arg(name="")] = field(default_factory=Joining)

    def __post_init__(self) -> None:
        for name, least in (("into", 1), ("take", 0), ("noise", 0), ("tries", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")

    def settings(self) -> dict[str, Any]:
        """All flags that the files depend on, as JSON has them; of the demonstrations what they are, not where."""
        from corpora.episodes.opening import dataset_fingerprint

        fields = dataclasses.asdict(self)
        del fields["out"], fields["demos"]
        return {**json.loads(json.dumps(fields)), "demonstrations": dataset_fingerprint(self.demos)}


def run(config: MultiplyConfig) -> dict[str, Any]:
    """Makes the trajectories that are still missing and returns the summary.

    Raises ValueError for demonstrations that cannot be multiplied (see `corpora.simulation.multiplied`), where there are more
    than `into` of a task, where `out` holds something else, where no try succeeds, and where the simulator is missing.
    """
    from corpora.episodes.lerobot_writer import LeRobotWriter
    from corpora.simulation.episode import episode_modality
    from corpora.simulation.multiplied import read_simulated

    started = time.perf_counter()
    source = read_simulated(config.demos, config.tasks, config.episodes, config.take)
    for task in source.tasks:
        if (count := len(source.of(task))) > config.into:
            raise ValueError(
                f"into {config.into}: below the {count} demonstrations of {task}: raise it, or take fewer with --take"
            )
    settings = {**config.settings(), "versions": versions(), "format": FORMAT}
    folder = dataset_run(config.out, settings, SUMMARY, _SETTINGS)
    episode = dataclasses.replace(source.episode, seed=config.seed, noise=(config.noise,), max_steps=MAX_STEPS)
    writer = LeRobotWriter(config.out, dataset_format(source.look, episode, source.encoding))
    if (done := folder.finished) is not None:
        writer.clear_staging()
        return done
    with folder.claim():
        tried = _multiply(config, source, episode, writer)
        numbers = [n for n in range(len(source.tasks) * config.into) if writer.is_staged(n)]
        if not numbers:
            raise ValueError(
                f"--demos '{config.demos}': none of {sum(each['tries'] for each in tried.values())} tries succeeded: give more "
                "demonstrations, less --noise or more --tries"
            )
        writer.finish(numbers)
        write_json(config.out / MODALITY, episode_modality(source.look.camera))
        facts = [writer.staged_facts(number) for number in numbers]
        frames = sum(fact["steps"] // episode.frame_every for fact in facts)
        summary: dict[str, Any] = {
            "episodes": len(facts),
            "frames": frames,
            "seconds": frames / episode.fps,
            "wall_s": time.perf_counter() - started,
            "tasks": tried,
            "per_episode": facts,
            "settings": settings,
        }
        _write_card(config, source, summary)
        summary = folder.finish(summary)
        writer.clear_staging()
    return summary


def _multiply(
    config: MultiplyConfig, source: SimulatedDataset, episode: EpisodeSettings, writer: LeRobotWriter
) -> dict[str, dict[str, Any]]:
    """Stages what is missing; task -> what became of its tries."""
    tried: dict[str, dict[str, Any]] = {}
    total = len(source.tasks) * config.into
    with bar("", unit="trajectories", keep=True) as show:
        for place, task in enumerate(source.tasks):
            first = place * config.into
            numbers = range(first, first + config.into)
            failed: list[dict[str, Any]] = []
            for _, failed in _tries(config, source, episode, writer, task, numbers):  # noqa: B007
                show(first + sum(map(writer.is_staged, numbers)), total, task)
            kept = [writer.staged_facts(number) for number in numbers if writer.is_staged(number)]
            failed = [each for fact in kept for each in fact.pop("failed")] + failed
            count = len(kept) + len(failed)
            tried[task] = {
                "demonstrations": [each.rows.index for each in source.of(task)],
                "wanted": config.into,
                "succeeded": len(kept),
                "tries": count,
                "rate": len(kept) / count,
                "failed": failed,
            }
            if len(kept) < config.into:
                log.warning(
                    "%s: %d of %d trajectories: no more succeeded in %d tries; more --tries, or more demonstrations",
                    *(task, len(kept), config.into, count),
                )
    return tried


def _tries(
    config: MultiplyConfig,
    source: SimulatedDataset,
    episode: EpisodeSettings,
    writer: LeRobotWriter,
    task: str,
    numbers: Sequence[int],
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Tries scene after scene without drawing it, and records what succeeds, until as many as wanted are staged; yields, after
    each, its number and those that failed since the last success."""
    from corpora.simulation.episode import record_episode, start_seed
    from corpora.simulation.metaworld import MetaWorldEnv
    from corpora.simulation.multiplied import Follower, demonstration

    staged = [number for number in numbers if writer.is_staged(number)]
    scene = writer.staged_facts(staged[-1])["try"] + 1 if staged else 0
    missing = list(numbers[len(staged) :])
    if not missing:
        return
    env = MetaWorldEnv(task, source.look)
    try:
        shown = [demonstration(env, source, each) for each in source.of(task)]
        actor = Follower(shown, config.joining, config.seed, config.choice)
        failed: list[dict[str, Any]] = []
        while missing and scene < config.tries * config.into:
            facts = record_episode(env, episode, scene, None, actor=actor)
            told = {
                "task": task,
                "try": scene,
                "seed": start_seed(config.seed, task, scene, actor.name),
                "noise": facts["noise"],
                "success": facts["success"],
                "steps": facts["steps"],
                "segments": actor.pieces(),
            }
            if facts["success"]:
                with writer.episode(missing[0], env.instruction) as record:
                    again = record_episode(env, episode, scene, record, actor=actor)
                    assert again == facts, "the same seed gives the same episode, drawn or not"
                    record.facts = {**told, "failed": failed}
                missing, failed = missing[1:], []
            else:
                failed = [*failed, told]
            yield scene, failed
            scene += 1
    finally:
        env.close()


def _write_card(config: MultiplyConfig, source: SimulatedDataset, summary: Mapping[str, Any]) -> None:
    """README.md of the dataset: nothing in it depends on when and where it was made."""
    from corpora.episodes.hub import write_dataset_card

    tried = summary["tasks"]
    facts = {
        "tier": "synthetic",
        "tasks": ", ".join(tried),
        "demonstrations": sum(len(each["demonstrations"]) for each in tried.values()),
        "episodes, frames": f"{summary['episodes']}, {summary['frames']} ({summary['seconds'] / 60:.1f} minutes)",
        "camera": f"{source.look.camera}, {source.look.size} px, {source.episode.fps} frames a second",
        "looks like": source.look.appearance,
        "seed": config.seed,
        "made with": ", ".join(f"{name} {version}" for name, version in summary["settings"]["versions"].items()),
        **{f"tries that succeeded, {task}": f"{each['succeeded']} of {each['tries']}" for task, each in tried.items()},
    }
    write_dataset_card(
        config.out,
        f"Meta-World, demonstrations multiplied: {config.out.resolve().name}",
        facts,
        {},
        ["`multiply.json` says of each episode which demonstration its segments came from, and how they were moved."],
        job="multiply",
        tags=("simulation", "meta-world", "mimicgen"),
        limits=[
            "It is simulated, and holds nothing that the demonstrations do not: their ways to act, in other scenes.",
            "Only scenes in which it succeeded are kept: hard ones are rarer here than they are.",
            "Meta-World and MuJoCo have licences of their own (MIT, Apache 2.0).",
        ],
    )


def table(summary: Mapping[str, Any]) -> Table:
    """Of each task its demonstrations, its trajectories and how many tries they took."""
    result = numbers_table("giza multiply", ["task"], ["demonstrations", "trajectories", "tries", "rate"])
    for task, each in summary["tasks"].items():
        numbers = (len(each["demonstrations"]), f"{each['succeeded']} of {each['wanted']}", each["tries"])
        result.add_row(task, *map(str, numbers), f"{each['rate']:.0%}")
    return result


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(MultiplyConfig, argv, job="multiply")
    for chatty in ("OpenGL", "numexpr"):  # they tell at INFO which accelerators they lack
        logging.getLogger(chatty).setLevel(logging.WARNING)
    summary = run(config)
    totals = f"{summary['episodes']} episodes, {summary['frames']} frames ({summary['seconds']:.0f} s of video)"
    print_ending(table(summary), summary, config.out, totals)
