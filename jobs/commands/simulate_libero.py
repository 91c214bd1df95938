"""Scripted demonstrations of LIBERO-Object as a LeRobot v3.0 dataset: what `giza simulate --benchmark libero` runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from corpora.episodes.lerobot_writer import Feature, LeRobotFormat, LeRobotWriter
from corpora.episodes.modality import TASK_ANNOTATION
from corpora.simulation.episode import EXPERT_ACTION
from corpora.simulation.libero.facts import (
    ACTION_NAMES,
    CAMERA,
    CONTROL_HZ,
    SCRIPTED,
    STATE_NAMES,
    LiberoLook,
    object_tasks,
)
from corpora.simulation.libero.process import libero_python, told_by
from corpora.store.files import write_json
from corpora.store.run import dataset_run
from corpora.video.encoding import VideoEncoding
from jobs.cli import parse
from jobs.console import numbers_table, print_ending
from jobs.progress import bar

log = logging.getLogger(__name__)

SUMMARY = "simulate.json"
_SETTINGS = ".simulate-settings.json"
FORMAT = 1
"""Raised when the same flags give other files."""


@dataclass(frozen=True)
class LiberoSimulateConfig:
    """Episodes of LIBERO-Object in which a script (above, grasp, lift, over the basket, release) succeeds, from starts of their own."""

    out: Path
    """Folder of the dataset; the same command again resumes."""
    benchmark: str = "libero"
    """libero; metaworld has other flags."""
    tasks: tuple[str, ...] = SCRIPTED
    """What is placed in the basket: of LIBERO-Object's ten things."""
    episodes: int = 25
    """For each task, successes all of them."""
    tries: int = 6
    """Starts that are tried for an episode before it is left out."""
    noise: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Levels, one episode after the other: standard deviation of smooth noise on the script's displacements, which are in
    [-1, 1]."""
    seed: int = 0
    """Of starts and noise. LIBERO's stored starts, from which policies are evaluated, are never among them."""
    workers: int = 2
    """Processes of the simulator."""
    look: Annotated[LiberoLook, tyro.conf.arg(name="")] = field(default_factory=LiberoLook)
    encoding: Annotated[VideoEncoding, tyro.conf.arg(name="")] = field(default_factory=VideoEncoding)

    def __post_init__(self) -> None:
        object_tasks(self.tasks)
        for name in ("episodes", "tries", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if not self.noise or min(self.noise) < 0:
            raise ValueError(f"noise {self.noise}: needs one level or more, none below 0; e.g. --noise 0 0.2")

    def settings(self) -> dict[str, Any]:
        """All flags that the files depend on, as JSON has them."""
        fields = dataclasses.asdict(self)
        del fields["out"], fields["workers"]
        return json.loads(json.dumps(fields))


def run(config: LiberoSimulateConfig) -> dict[str, Any]:
    """Simulates what is still missing and returns the summary.

    Raises ValueError where `out` holds something else, where LIBERO's environment is missing and where nothing succeeded, and
    OSError where one of its processes dies.
    """
    started = time.perf_counter()
    settings = {**config.settings(), "format": FORMAT}
    folder = dataset_run(config.out, settings, SUMMARY, _SETTINGS)
    writer = LeRobotWriter(config.out, dataset_format(config))
    if (done := folder.finished) is not None:
        writer.clear_staging()
        return done
    libero_python()
    with folder.claim():
        lost = _record(config, writer)
        numbers = [number for number in range(len(config.tasks) * config.episodes) if writer.is_staged(number)]
        if not numbers:
            raise ValueError(
                f"tasks {config.tasks}: no try succeeded; choose among {', '.join(SCRIPTED)}, or less --noise"
            )
        writer.finish(numbers)
        write_json(config.out / "meta" / "modality.json", _modality())
        facts = [writer.staged_facts(number) for number in numbers]
        summary = folder.finish(_summary(config, settings, facts, lost, time.perf_counter() - started))
        _write_card(config, summary)
        writer.clear_staging()
    return summary


def _record(config: LiberoSimulateConfig, writer: LeRobotWriter) -> list[dict[str, Any]]:
    """Stages what is missing; what was tried in vain."""
    total = len(config.tasks) * config.episodes
    lost: list[dict[str, Any]] = []
    with bar("", unit="episodes", keep=True) as show:
        missing = [number for number in range(total) if not writer.is_staged(number)]
        show(total - len(missing), total, "LIBERO begins")
        for told in told_by(list(_orders(config, missing))):
            number = config.tasks.index(told["task"]) * config.episodes + told["number"]
            if "image" in told:
                _write_episode(writer, number, told)
            else:
                lost.append(told)
                log.warning("%s, episode %d: none of %d tries succeeded", told["task"], told["number"], told["failed"])
            missing.remove(number)
            show(total - len(missing), total, told["task"])
    return lost


def _orders(config: LiberoSimulateConfig, missing: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Of each worker: one stretch of what is missing, so that it makes few environments."""
    episodes = [
        (
            config.tasks[number // config.episodes],
            place := number % config.episodes,
            config.noise[place % len(config.noise)],
        )
        for number in missing
    ]
    each = -(-len(episodes) // config.workers)
    for first in range(0, len(episodes), max(1, each)):
        yield {
            "module": "corpora.simulation.libero.script",
            "episodes": episodes[first : first + each],
            "seed": config.seed,
            "tries": config.tries,
            "camera": "agentview",
            **dataclasses.asdict(config.look),
        }


def _write_episode(writer: LeRobotWriter, number: int, told: Mapping[str, Any]) -> None:
    with writer.episode(number, told["instruction"]) as record:
        for row, image in enumerate(told["image"]):
            values = {
                "observation.state": told["state"][row],
                "action": told["action"][row],
                EXPERT_ACTION: told["expert"][row],
                "next.success": bool(told["success"][row]),
            }
            record.add(image, values)
        kept = ("task", "number", "noise", "seed", "failed", "steps")
        record.facts = {name: told[name] for name in kept}


def dataset_format(config: LiberoSimulateConfig) -> LeRobotFormat:
    """As the published copies, with the script's own action beside the one that was done."""
    return LeRobotFormat(
        fps=CONTROL_HZ,
        camera=f"observation.images.{CAMERA}",
        size=config.look.size,
        features={
            "observation.state": Feature(STATE_NAMES),
            "action": Feature(ACTION_NAMES),
            EXPERT_ACTION: Feature(ACTION_NAMES),
            "next.success": Feature(("success",), "bool"),
        },
        robot_type="panda",
        encoding=config.encoding,
    )


def _modality() -> dict[str, Any]:
    """GR00T's meta/modality.json: the action to imitate is the script's own."""
    return {
        "state": {"robot": {"start": 0, "end": len(STATE_NAMES), "original_key": "observation.state"}},
        "action": {"expert": {"start": 0, "end": len(ACTION_NAMES), "original_key": EXPERT_ACTION}},
        "video": {CAMERA: {"original_key": f"observation.images.{CAMERA}"}},
        "annotation": {name: {"original_key": column} for name, column in TASK_ANNOTATION.items()},
    }


def _summary(
    config: LiberoSimulateConfig,
    settings: Mapping[str, Any],
    facts: Sequence[Mapping[str, Any]],
    lost: Sequence[Mapping[str, Any]],
    wall_s: float,
) -> dict[str, Any]:
    tasks = {}
    for task in config.tasks:
        mine = [fact for fact in facts if fact["task"] == task]
        failed = sum(each["failed"] for each in [*mine, *lost] if each["task"] == task)
        tasks[task] = {"wanted": config.episodes, "succeeded": len(mine), "tries": len(mine) + failed}
    frames = sum(fact["steps"] for fact in facts)
    return {
        "episodes": len(facts),
        "frames": frames,
        "seconds": frames / CONTROL_HZ,
        "wall_s": wall_s,
        "tasks": tasks,
        "per_episode": list(facts),
        "settings": dict(settings),
    }


def _write_card(config: LiberoSimulateConfig, summary: Mapping[str, Any]) -> None:
    """README.md of the dataset: nothing in it depends on when and where it was made."""
    from corpora.episodes.hub import write_dataset_card

    facts = {
        "tasks": ", ".join(config.tasks),
        "episodes, frames": f"{summary['episodes']}, {summary['frames']} ({summary['seconds'] / 60:.1f} minutes)",
        "camera": f"agentview, {config.look.size} px, {CONTROL_HZ} frames a second, upright and mirrored",
        "seed": config.seed,
        **{
            f"tries that succeeded, {task}": f"{each['succeeded']} of {each['tries']}"
            for task, each in summary["tasks"].items()
        },
    }
    write_dataset_card(
        config.out,
        "Episodes of LIBERO-Object, scripted",
        facts,
        {},
        [],
        job="simulate",
        tags=("simulation", "libero"),
        limits=[
            "It is simulated, and the expert is a script, with noise: no person's demonstrations.",
            "Only starts from which the script succeeds are kept.",
            "LIBERO, robosuite and MuJoCo have licences of their own (MIT, MIT, Apache 2.0).",
        ],
    )


def table(summary: Mapping[str, Any]) -> Table:
    """Of each task its episodes and how many tries they took."""
    result = numbers_table("giza simulate, LIBERO-Object", ["task"], ["episodes", "tries"])
    for task, each in summary["tasks"].items():
        result.add_row(task, f"{each['succeeded']} of {each['wanted']}", str(each["tries"]))
    return result


def main(argv: Sequence[str]) -> None:
    """The command line of `giza simulate --benchmark libero`."""
    config = parse(LiberoSimulateConfig, argv, job="simulate")
    summary = run(config)
    totals = f"{summary['episodes']} episodes, {summary['frames']} frames ({summary['seconds']:.0f} s of video)"
    print_ending(table(summary), summary, config.out, totals)
