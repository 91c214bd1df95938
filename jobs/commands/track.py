"""`giza track`: where the agent of a corpus is, frame by frame: its mask, and the point that means the same on every body."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from corpora.agent.settings import TrackSettings
from corpora.store.inputs import READ
from jobs.cli import parse
from jobs.console import numbers_table, print_ending

if TYPE_CHECKING:
    from corpora.agent.source import TrackSource


@dataclass(frozen=True)
class TrackConfig:
    """Find the agent (a person's hand, a robot's gripper) in every frame of a corpus: mask, point, confidence."""

    corpus: Path = field(metadata=READ)
    """Folder of giza ingest: people's video, or a robot dataset that was ingested. With --robot the dataset itself."""
    out: Path
    """Folder of the tracks; the same command again resumes."""
    settings: Annotated[TrackSettings, tyro.conf.arg(name="")] = field(default_factory=TrackSettings)
    robot: Path | None = field(default=None, metadata=READ)
    """TOML file of a robot's model, joints and calibrated camera: instead of --source, the robot is posed as the state of the
    dataset --corpus says and drawn by MuJoCo (extra `sim`); a file an episode, as giza simulate --tracks writes them.
    corpora/simulation/robot_file.py shows one."""
    part_frames: int = 4096
    """Frames of a Parquet part, which is what a kill can cost."""


def run(config: TrackConfig, *, source: TrackSource | None = None, quiet: bool = False) -> dict[str, Any]:
    """Tracks what is not tracked yet and returns the summary (_track.json). `source`: one of your own, already opened.

    A clip of which nothing is found stays in the corpus, and is named in _clips.parquet with its reason. Raises ValueError
    for an unknown source, one that lacks what it needs, and an `out` that holds something else.
    """
    if config.robot is not None:
        return _of_robot(config, config.robot, quiet)
    from corpora.agent.tracking import open_source, track_corpus
    from corpora.agent.tracks import FORMAT, SUMMARY
    from corpora.clips.corpus import Corpus
    from corpora.clips.parts import SETTINGS
    from corpora.store.run import Run
    from jobs.progress import bar

    corpus = Corpus(config.corpus)
    corpus.expect_clips()
    opened = source or open_source(config.settings, corpus)
    settings = {**dataclasses.asdict(config.settings), "part_frames": config.part_frames}
    settings |= {"corpus_identity": corpus.identity, "source_identity": opened.identity}
    run = Run(config.out, settings, summary=SUMMARY, record=SETTINGS, free=("files",), formats={"format": FORMAT})
    if (done := run.finished) is not None:
        return done
    with run.claim(), bar("tracking", unit="clips", quiet=quiet, keep=True) as show:
        found = track_corpus(corpus, opened, run.folder, part_frames=config.part_frames, progress=show)
        return run.finish(
            {
                "source": opened.name,
                "corpus": str(config.corpus),
                "corpus_identity": corpus.identity,
                "size": corpus.clips[0].size,
                "fit": corpus.fit,
                **found,
            }
        )


def _of_robot(config: TrackConfig, robot: Path, quiet: bool) -> dict[str, Any]:
    """Tracks of a robot's dataset by its kinematics."""
    from corpora.agent.tracks import SUMMARY
    from corpora.clips.parts import SETTINGS
    from corpora.episodes.opening import dataset_fingerprint, open_episodes
    from corpora.simulation.kinematics import FORMAT, PosedRobot, selection_of, write_tracks
    from corpora.simulation.robot_file import RobotFile
    from corpora.store.run import Run
    from corpora.store.unread import flag, given
    from jobs.progress import bar

    for name, value in {**given(config, ("part_frames",)), **given(config.settings)}.items():
        raise ValueError(
            f"{flag(name)} {value}: is of clips, and with --robot the tracks are the robot's kinematics: leave it, or --robot, out"
        )
    file = RobotFile.read(robot)
    episodes = open_episodes(config.corpus, selection_of(file))
    with PosedRobot(file) as posed:
        posed.check(episodes)
        settings = {**dataclasses.asdict(file), "model": posed.identity, "dataset": dataset_fingerprint(config.corpus)}
        run = Run(config.out, settings, summary=SUMMARY, record=SETTINGS, formats={"format": FORMAT})
        if (done := run.finished) is not None:
            return done
        with run.claim(), bar("tracking", unit="episodes", quiet=quiet, keep=True) as show:
            found = write_tracks(episodes, posed, run.folder, show)
            return run.finish({"source": "kinematics", "dataset": str(config.corpus), **found})


def table(summary: dict[str, Any]) -> Table:
    """What share is seen, by the sources' folders, and why clips have no track."""
    result = numbers_table("giza track", [""], ("clips", "frames", "seen"))
    for name, found in summary["folders"].items():
        result.add_row(name or "(top)", str(found["clips"]), str(found["frames"]), f"{found['seen_share']:.1%}")
    result.add_section()
    for reason, count in summary["reasons"].items():
        result.add_row(f"no track: {reason}", str(count))
    return result


def robot_table(summary: dict[str, Any]) -> Table:
    """How much of a robot's dataset shows it, and which episodes are left out."""
    result = Table("episodes", "frames", "seen", title="giza track", title_justify="left")
    result.add_row(str(summary["episodes"]), str(summary["frames"]), f"{summary['seen_share']:.1%}")
    for index, reason in summary["left_out"].items():
        result.add_row(f"left out: {index}", "", reason)
    return result


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(TrackConfig, argv, job="track")
    summary = run(config)
    if config.robot is not None:
        totals = (
            f"{summary['episodes']} episodes, the robot in {summary['seen_share']:.1%} of {summary['frames']} frames"
        )
        print_ending(robot_table(summary), summary, config.out, totals)
        return
    totals = (
        f"{summary['tracked_clips']} of {summary['clips']} clips, {summary['seen_share']:.1%} of {summary['frames']} frames "
        f"seen, confidence {summary['confidence']:.2f}"
    )
    print_ending(table(summary), summary, config.out, totals)
