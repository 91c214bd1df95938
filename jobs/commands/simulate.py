"""Meta-World or LIBERO video whose actions are known, as a LeRobot v3.0 dataset."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from corpora.simulation.gl import require_offscreen_gl
from corpora.simulation.settings import HEAD_CAMERA, Appearance, EpisodeSettings, Look
from corpora.simulation.tasks import DEFAULT_TASKS, check_benchmark, task_names
from corpora.store.files import write_json
from corpora.store.run import dataset_run
from corpora.video.encoding import VideoEncoding
from jobs.cli import parse, value_in
from jobs.console import numbers_table, print_ending
from jobs.progress import bar

if TYPE_CHECKING:
    from corpora.episodes.lerobot_writer import LeRobotFormat, LeRobotWriter

SUMMARY = "simulate.json"
MODALITY = "meta/modality.json"
_SETTINGS = ".simulate-settings.json"
FORMAT = 3
"""Raised when the same flags give other files: 1 had neither the expert's action nor meta/modality.json, 2 called it
`action.expert` and named no annotation."""


@dataclass(frozen=True)
class SimulateConfig:
    """Episodes of Meta-World's scripted experts, as video."""

    out: Path
    """Folder of the dataset; the same command again resumes."""
    benchmark: str = "metaworld"
    """metaworld, or libero, which has other flags: giza simulate --benchmark libero --help."""
    tasks: tuple[str, ...] = DEFAULT_TASKS
    """Meta-World tasks, with or without "-v3"."""
    episodes: int = 25
    """For each task."""
    size: int = 96
    """Height and width of the image in pixels."""
    camera: str = HEAD_CAMERA
    """head (ours, upright), corner, corner2, corner3, corner4, topview or behindGripper (Meta-World's)."""
    appearance: Appearance = "robot"
    """robot: as Meta-World is; hand: another room, and a person's hand in the place of the arm; robot_elsewhere: the robot in
    that room."""
    show_goal: bool = False
    """Draw the goal markers, which give the task away."""
    action_free: bool = False
    """Write images and instructions only, as people's videos have: no action, state, success or camera truth."""
    truth: Path | None = None
    """With --action-free: keep what was left out in this Parquet file, outside the dataset."""
    tracks: Path | None = None
    """Also write where the agent is in every frame (mask, point, depth, position) into this folder, outside the dataset, as
    `giza track --source files --files FOLDER` reads it; takes half as long again."""
    episode: Annotated[EpisodeSettings, tyro.conf.arg(name="")] = field(default_factory=EpisodeSettings)
    encoding: Annotated[VideoEncoding, tyro.conf.arg(name="")] = field(default_factory=VideoEncoding)

    def __post_init__(self) -> None:
        check_benchmark(self.benchmark)
        task_names(self.tasks)
        if self.episodes < 1:
            raise ValueError(f"episodes {self.episodes}: must be at least 1 for each task")
        if self.episode.people > 1 and self.appearance == "robot":
            raise ValueError(f"people {self.episode.people}: only with --appearance hand or robot_elsewhere")
        if self.truth is not None and not self.action_free:
            raise ValueError("truth: only with --action-free; without it the dataset itself holds the truth")
        if self.truth is not None and self.truth.resolve().is_relative_to(self.out.resolve()):
            raise ValueError(f"truth {self.truth}: must lie outside of --out, or the dataset is not free of actions")
        if self.tracks is not None and self.tracks.resolve().is_relative_to(self.out.resolve()):
            raise ValueError(f"tracks {self.tracks}: must lie outside of --out, which holds the dataset alone")
        self.look()

    def look(self) -> Look:
        return Look(self.size, self.camera, self.appearance, self.show_goal)

    def settings(self) -> dict[str, Any]:
        """All flags that the files depend on, as JSON has them."""
        fields = dataclasses.asdict(self)
        fields |= {"tasks": list(task_names(self.tasks)), "truth": self.truth is not None}
        del fields["out"], fields["benchmark"]
        fields |= {"tracks": True} if fields.pop("tracks") is not None else {}
        return json.loads(json.dumps(fields))


def run(config: SimulateConfig) -> dict[str, Any]:
    """Simulates what is still missing and returns the summary.

    Raises ValueError where `out` holds something else, and where the simulator or its GL library is missing.
    """
    from corpora.episodes.lerobot_writer import LeRobotWriter

    started, started_cpu = time.perf_counter(), time.process_time()
    settings = {**config.settings(), "versions": versions(), "format": FORMAT}
    folder = dataset_run(config.out, settings, SUMMARY, _SETTINGS)
    writer = LeRobotWriter(config.out, dataset_format(config.look(), config.episode, config.encoding))
    if (done := folder.finished) is not None:
        if config.truth is not None and not config.truth.exists():
            raise ValueError(f"{config.out} is finished but its truth {config.truth} is gone; remove {config.out}")
        writer.clear_staging()
        return done
    with folder.claim():
        facts, frames = _record(config, writer, started)
        spent = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - started_cpu}
        summary = _summary(config, settings, facts, frames, spent)
        _write_card(config, summary)
        summary = folder.finish(summary)
        writer.clear_staging()
    return summary


def _record(config: SimulateConfig, writer: LeRobotWriter, started: float) -> tuple[list[dict[str, Any]], int]:
    """Simulates the missing episodes and writes the dataset; facts of each episode, and the frames of this call."""
    from corpora.simulation.episode import episode_modality

    names = task_names(config.tasks)
    total, done, frames = len(names) * config.episodes, 0, 0
    with bar("", unit="episodes", keep=True) as show:
        for number, task in enumerate(names):
            missing = [k for k in range(config.episodes) if not writer.is_staged(number * config.episodes + k)]
            done += config.episodes - len(missing)
            show(done, total, task)
            for recorded in _simulate_task(config, writer, task, number * config.episodes, missing):
                done, frames = done + 1, frames + recorded
                show(done, total, f"{task}, {frames / (time.perf_counter() - started):.0f} frames/s")
    writer.finish(total, features=() if config.action_free else None)
    if config.truth is not None:
        writer.write_truth(total, config.truth)
    if not config.action_free:
        write_json(config.out / MODALITY, episode_modality(config.camera))
    return [writer.staged_facts(number) for number in range(total)], frames


def versions() -> dict[str, str]:
    """Of the packages that the bytes depend on; without the simulator, none of them."""
    try:
        return {name: importlib.metadata.version(name) for name in ("metaworld", "mujoco", "av", "numpy")}
    except importlib.metadata.PackageNotFoundError:
        require_offscreen_gl()  # says what to install
        raise


def dataset_format(look: Look, episode: EpisodeSettings, encoding: VideoEncoding) -> LeRobotFormat:
    """Of a dataset of episodes that look like this."""
    from corpora.episodes.lerobot_writer import LeRobotFormat
    from corpora.simulation.episode import episode_features
    from corpora.simulation.metaworld import still_pose

    return LeRobotFormat(
        fps=episode.fps,
        camera=f"observation.images.{look.camera}",
        size=look.size,
        features=episode_features(still_pose(look.camera)),
        robot_type="simulated_hand" if look.appearance == "hand" else "sawyer",
        encoding=encoding,
    )


def _simulate_task(
    config: SimulateConfig, writer: LeRobotWriter, task: str, first: int, missing: Sequence[int]
) -> Iterator[int]:
    """Records the missing episodes of one task; yields the frames of each."""
    from corpora.simulation.episode import ToolRecord, record_episode
    from corpora.simulation.metaworld import MetaWorldEnv

    if not missing:
        return
    env = MetaWorldEnv(task, config.look())
    try:
        for episode in missing:
            with writer.episode(first + episode, env.instruction) as record:
                tools = None if config.tracks is None else ToolRecord(config.episode.fps)
                record_episode(env, config.episode, episode, record, tools)
                if tools is not None and config.tracks is not None:
                    name = config.out.resolve().name
                    tools.file().write(config.tracks / name / f"episode_{first + episode:06d}.npz")
            yield record.frames
    finally:
        env.close()


def _summary(
    config: SimulateConfig,
    settings: Mapping[str, Any],
    facts: Sequence[Mapping[str, Any]],
    frames: int,
    spent: Mapping[str, float],
) -> dict[str, Any]:
    total = sum(fact["steps"] // config.episode.frame_every for fact in facts)
    summary: dict[str, Any] = {
        "episodes": len(facts),
        "frames": total,
        "seconds": total / config.episode.fps,
        "frames_this_run": frames,
        **spent,
        "frames_per_s": frames / spent["wall_s"],
        "frames_per_cpu_s": frames / spent["cpu_s"],  # what one core does when nothing else wants it
        "settings": dict(settings),
    }
    if not config.action_free:  # whether it went well is not for those who have the video alone
        summary |= {"success": success_rates(facts), "per_episode": list(facts)}
    return summary


def _write_card(config: SimulateConfig, summary: Mapping[str, Any]) -> None:
    """README.md of the dataset: nothing in it depends on when and where it was made."""
    from corpora.episodes.hub import write_dataset_card

    rates = summary.get("success", {})
    told = {f"success, {task}": f"{rate['all']:.0%}" for task, rate in rates.items()}
    versions = ", ".join(f"{name} {version}" for name, version in summary["settings"]["versions"].items())
    facts = {
        "tasks": ", ".join(summary["settings"]["tasks"]),
        "episodes, frames": f"{summary['episodes']}, {summary['frames']} ({summary['seconds'] / 60:.1f} minutes)",
        "camera": f"{config.camera}, {config.size} px, {config.episode.fps} frames a second",
        "looks like": config.appearance,
        "seed": config.episode.seed,
        "made with": versions,
        **told,
    }
    actions = (
        "Actions are left out." if config.action_free else "Episodes that failed are among them: read `next.success`."
    )
    write_dataset_card(
        config.out,
        "Episodes of Meta-World, simulated",
        facts,
        {},
        [],
        job="simulate",
        tags=("simulation", "meta-world"),
        limits=[
            "It is simulated: pictures, contacts and the expert (a script, with noise) are no real robot's.",
            actions,
            "Meta-World and MuJoCo have licences of their own (MIT, Apache 2.0).",
        ],
    )


def success_rates(facts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Task -> noise level ("all" for every level) -> share of episodes that succeeded."""
    rates: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(fact["task"] for fact in facts):
        mine = [fact for fact in facts if fact["task"] == task]
        groups = {"all": mine} | {str(level): [] for level in sorted({fact["noise"] for fact in mine})}
        for fact in mine:
            groups[str(fact["noise"])].append(fact)
        rates[task] = {name: sum(fact["success"] for fact in group) / len(group) for name, group in groups.items()}
    return rates


def table(summary: Mapping[str, Any]) -> Table:
    """Success per task and noise level, or the totals alone where the actions are left out."""
    rates = summary.get("success", {})
    levels = list(dict.fromkeys(level for rate in rates.values() for level in rate))
    columns = ["success" if level == "all" else f"noise {level}" for level in levels]
    result = numbers_table("giza simulate", ["task"], columns if rates else ["episodes"])
    if not rates:
        for task in summary["settings"]["tasks"]:
            result.add_row(task, str(summary["settings"]["episodes"]))
    for task, rate in rates.items():
        result.add_row(task, *(f"{rate[level]:.2f}" if level in rate else "" for level in levels))
    return result


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    benchmark = value_in(argv, "benchmark", "metaworld")
    check_benchmark(benchmark)
    if benchmark == "libero":
        from jobs.commands import simulate_libero

        simulate_libero.main(argv)
        return
    config = parse(SimulateConfig, argv, job="simulate")
    for chatty in ("OpenGL", "numexpr"):  # they tell at INFO which accelerators they lack
        logging.getLogger(chatty).setLevel(logging.WARNING)
    summary = run(config)
    totals = (
        f"{summary['episodes']} episodes, {summary['frames']} frames ({summary['seconds']:.0f} s of video); "
        f"frames_per_s {summary['frames_per_s']:.1f} ({summary['frames_per_cpu_s']:.1f} a second of CPU), "
        f"{summary['wall_s']:.1f} s"
    )
    print_ending(table(summary), summary, config.out, totals)
