"""`giza crosspaint` of a robot's LeRobot dataset: nobody or a dot in the robot's place, for policies that learn from people
painted alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jobs.console import facts_table

if TYPE_CHECKING:
    from corpora.agent.painting import Agent, PaintSettings

SUMMARY, RECORD = "crosspaint.json", ".crosspaint-settings.json"


def run_dataset(
    root: Path, tracks: Path, out: Path, paint: PaintSettings, camera: str, agent: Agent | None, quiet: bool
) -> dict[str, Any]:
    """Paints the video files that are not painted yet and returns the summary (crosspaint.json).

    Raises ValueError for --agent robot, a camera that is not named clearly, tracks of which there are none, and an `out`
    that holds something else.
    """
    from corpora.agent.paint_dataset import FORMAT, one_camera, paint_dataset, tracks_identity
    from corpora.agent.painting import Painter, open_agent
    from corpora.episodes.lerobot import LeRobotDataset
    from corpora.episodes.opening import dataset_fingerprint
    from corpora.store.run import Run
    from jobs.console import bar

    if paint.agent == "robot" and agent is None:
        raise ValueError(
            f"--agent robot: '{root}' is a robot's dataset and shows it already; paint --agent dot or none, or name a corpus of "
            "people's video"
        )
    root, tracks = root.expanduser(), tracks.expanduser()
    dataset = LeRobotDataset.open(root)
    painted = one_camera(dataset, camera)
    opened = agent or open_agent(paint, 0)
    settings = {**dataclasses.asdict(paint), "robot": None, "robot_tracks": None}
    settings |= {"agent": opened.name, "agent_identity": opened.identity, "camera": painted, "format": FORMAT}
    settings |= {"dataset": dataset_fingerprint(root), "tracks_identity": tracks_identity(dataset, tracks)}
    run = Run(out, settings, summary=SUMMARY, record=RECORD, inside="settings", formats={"format": FORMAT}, alone=True)
    if (done := run.finished) is not None:
        return done
    with run.claim(), bar("painting", unit="files", quiet=quiet, keep=True) as show:
        found = paint_dataset(dataset, painted, tracks, Painter(opened, paint), run.folder, show)
        return run.finish({"settings": settings, "agent": opened.name, **found})


def dataset_table(summary: dict[str, Any]) -> Table:
    """How much was painted."""
    facts = {
        "episodes painted": summary["painted"],
        "episodes kept as they are": len(summary["skipped"]),
        "frames with an agent": f"{summary['seen_frames']} of {summary['frames']}",
        "background seen before": f"{summary['before_px'] / max(1, summary['hidden_px']):.1%}",
        "camera": summary["camera"],
    }
    return facts_table(f"giza crosspaint --agent {summary['agent']}", facts)
