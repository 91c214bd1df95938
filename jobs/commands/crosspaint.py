"""`giza crosspaint`: a corpus in which another agent acts: the robot's cut-outs over a person, nobody, or a dot."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from corpora.agent.settings import CrosspaintSettings, PaintSettings
from corpora.store.inputs import READ
from jobs.cli import parse
from jobs.commands.crosspaint_dataset import dataset_table, run_dataset
from jobs.console import numbers_table, print_ending

if TYPE_CHECKING:
    from corpora.agent.painting import Agent

log = logging.getLogger(__name__)

PAGE = "crosspaint.html"
TEMPLATE = Path(__file__).with_name("crosspaint.html.j2")


@dataclass(frozen=True)
class CrosspaintConfig:
    """Take the agent (a person, or a robot) out of every frame where giza track found it, and paint another in its place."""

    corpus: Path = field(metadata=READ)
    """Folder of giza ingest; or a robot's LeRobot dataset, whose video is painted dot or none for policies that learn from
    people painted alike."""
    tracks: Path = field(metadata=READ)
    """Folder of giza track of that corpus; of a LeRobot dataset, folder of npz files as giza simulate --tracks writes it."""
    out: Path
    """Folder of the new corpus or dataset; the same command again resumes."""
    camera: str = ""
    """Of a LeRobot dataset with several cameras: the one that the tracks are of. The others stay as they are."""
    paint: Annotated[PaintSettings, tyro.conf.arg(name="")] = field(default_factory=PaintSettings)
    settings: Annotated[CrosspaintSettings, tyro.conf.arg(name="")] = field(default_factory=CrosspaintSettings)
    part_frames: int = 8192
    """Frames of a shard, which is what a kill can cost."""
    shown: int = 12
    """Clips on the page; a quarter of them are those whose cut-outs were moved the furthest."""


def run(config: CrosspaintConfig, *, agent: Agent | None = None, quiet: bool = False) -> dict[str, Any]:
    """Paints what is not painted yet and returns the summary (ingest.json). `agent`: one of your own, already opened.

    A clip that cannot be painted is kept as it is or left out, with its reason. Raises ValueError for an unknown agent, one
    that lacks what it needs, tracks of other clips, and an `out` that holds something else.
    """
    from corpora.agent.crosspaint import FORMAT, Crosspaint
    from corpora.agent.painting import AGENTS, Painter, open_agent
    from corpora.agent.tracks import Tracks
    from corpora.clips.card import write_corpus_card
    from corpora.clips.corpus import SUMMARY, Corpus
    from corpora.episodes.lerobot import LeRobotDataset
    from corpora.store.run import Run
    from corpora.store.unread import expect_read, flag, given
    from jobs.commands.crosspaint_page import write_page
    from jobs.progress import bar

    if config.out.resolve() == config.corpus.resolve():
        raise ValueError(f"--out '{config.out}': must be another folder than --corpus, which is read")
    if LeRobotDataset.exists(config.corpus.expanduser()):
        for name, value in {**given(config, ("part_frames", "shown")), **given(config.settings)}.items():
            raise ValueError(
                f"{flag(name)} {value}: is of a corpus of clips, and '{config.corpus}' is a robot's dataset, whose episodes stay "
                "whole: leave it out"
            )
        return run_dataset(config.corpus, config.tracks, config.out, config.paint, config.camera, agent, quiet)
    corpus = Corpus(config.corpus)
    corpus.expect_clips()
    if config.camera:
        raise ValueError(
            f"--camera '{config.camera}': is of a robot's dataset, and '{config.corpus}' is a corpus, whose clips are of one camera "
            "each: leave it out"
        )
    tracks = Tracks(config.tracks, corpus)
    opened = agent or open_agent(config.paint, corpus.clips[0].size)
    if agent is None:
        expect_read(config.paint, "agent", AGENTS)
    made = corpus.summary.get("config", {})
    how = {**dataclasses.asdict(config.paint), **dataclasses.asdict(config.settings)}
    how |= {"agent": opened.name, "agent_identity": opened.identity, "part_frames": config.part_frames}
    how |= {"corpus_identity": corpus.identity, "tracks_identity": tracks.identity}
    settings = {**made.get("settings", {}), "crosspaint": {**how, "robot": None, "robot_tracks": None}}
    settings |= {"fit": corpus.fit, "size": corpus.clips[0].size}
    job = {"format": FORMAT, "settings": settings, "seed": made.get("seed")}
    run = Run(config.out, job, summary=SUMMARY, inside="config", formats={"format": FORMAT}, alone=True)
    if (done := run.finished) is not None:
        return done
    with run.claim(), bar("painting", unit="clips", quiet=quiet, keep=True) as show:
        painting = Crosspaint(
            corpus, tracks, Painter(opened, config.paint), config.settings, job, run.folder, config.part_frames
        )
        found = painting.run(show)
        write_page(run.folder / PAGE, painting, found["painting"], config.shown)
        for remark in remarks(found["painting"]):
            log.warning("%s", remark)
        write_corpus_card(run.folder, {"config": job, **found}, painted=found["painting"]["agent"])
        return run.finish({"config": job, **found})


def remarks(found: dict[str, Any]) -> list[str]:
    """What is to be said of a painting, in sentences."""
    said = []
    frames = max(1, found["frames_with_agent"])
    if rest := found["clips"] - found["painted_clips"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found["reasons"].items())
        said.append(
            f"{rest} of {found['clips']} clips are not painted, {found['kept_as_they_are']} of them kept as they are and "
            f"{found['left_out']} left out: {reasons}"
        )
    if found["frames_without_point"]:
        said.append(
            f"in {found['frames_without_point']} of {frames} frames the agent is taken out and nobody put in: no point"
        )
    if found["frames_with_parts_apart"]:
        said.append(
            f"in {found['frames_with_parts_apart']} of {frames} frames the mask is in parts: what something hides, or two people; "
            "all of it is taken out, and one agent put in"
        )
    if found["frames_far"]:
        said.append(
            f"in {found['frames_far']} of {frames} frames the nearest cut-out had to be moved by more than a tenth of the image: the "
            "robot's demonstrations do not reach there"
        )
    unseen = found["frames"] - found["frames_with_agent"]
    if unseen:
        said.append(
            f"{unseen} of {found['frames']} frames of painted clips are as they were: no agent is seen in them, which has gone or "
            "was lost"
        )
    return said


def table(summary: dict[str, Any]) -> Table:
    """What was painted, with what behind it, and why the rest was not."""
    found = summary["painting"]
    result = numbers_table(f"giza crosspaint --agent {found['agent']}", [""], [""])
    result.add_row("clips painted", f"{found['painted_clips']} of {found['clips']}")
    result.add_row("kept as they are", str(found["kept_as_they_are"]))
    result.add_row("left out", str(found["left_out"]))
    for reason, count in found["reasons"].items():
        result.add_row(f"  {reason}", str(count))
    result.add_section()
    result.add_row("frames with an agent", f"{found['frames_with_agent']} of {found['frames']}")
    result.add_row("background seen before", f"{found['background_seen_before']:.1%}")
    result.add_row("background inpainted", f"{found['background_inpainted']:.1%}")
    if shift := found["shift_px"]:
        result.add_row("cut-outs used", str(found["cutouts"]))
        result.add_row("moved by, pixels: median, 95%", f"{shift['median']:.1f}, {shift['p95']:.1f}")
        scale = found["scale"]
        result.add_row(
            "drawn as large: least, median, most", f"{scale['least']:.2f}, {scale['median']:.2f}, {scale['most']:.2f}"
        )
    return result


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(CrosspaintConfig, argv, job="crosspaint")
    summary = run(config)
    if "painting" not in summary:
        print_ending(dataset_table(summary), summary, config.out, f"before and after: {config.out / PAGE}")
        return
    totals = f"{summary['clips']} clips, {summary['hours']:.4f} h; before and after: {config.out / PAGE}"
    print_ending(table(summary), summary, config.out, totals)
