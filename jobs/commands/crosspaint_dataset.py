"""`giza crosspaint` of a robot's LeRobot dataset: nobody or a dot in the robot's place, for policies that learn from people
painted alike."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jobs.console import facts_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from corpora.agent.painting import Agent
    from corpora.agent.settings import PaintSettings
    from corpora.episodes.lerobot import LeRobotDataset

SUMMARY, RECORD, PAGE = "crosspaint.json", ".crosspaint-settings.json", "crosspaint.html"
TEMPLATE = Path(__file__).with_name("crosspaint_dataset.html.j2")
SHOWN, SIDE = 12, 128
"""Episodes on the page, and the side of its images in pixels."""
MOMENTS = (0.05, 0.35, 0.65, 0.95)


@dataclass(frozen=True)
class ShownEpisode:
    """One episode on the page."""

    index: int
    text: str
    pairs: list[list[NDArray[np.uint8]]]
    """Before and after, for each moment."""


def run_dataset(
    root: Path, tracks: Path, out: Path, paint: PaintSettings, camera: str, agent: Agent | None, quiet: bool
) -> dict[str, Any]:
    """Paints the video files that are not painted yet and returns the summary (crosspaint.json).

    Raises ValueError for --agent robot, a camera that is not named clearly, tracks of which there are none, and an `out`
    that holds something else.
    """
    from corpora.agent.paint_dataset import FORMAT, one_camera, paint_dataset, tracks_identity
    from corpora.agent.painting import AGENTS, Painter, open_agent, view_of
    from corpora.episodes.contents import contents_fingerprint
    from corpora.episodes.hub import write_dataset_card
    from corpora.episodes.lerobot import LeRobotDataset
    from corpora.episodes.opening import dataset_fingerprint
    from corpora.store.provenance import provenance
    from corpora.store.run import Run
    from corpora.store.unread import expect_read
    from corpora.video.view import ROBOT
    from jobs.progress import bar
    from lapa.reporting.page import provenance_rows, write_page

    if (paint.agent if agent is None else agent.name) == ROBOT:
        raise ValueError(
            f"--agent robot: '{root}' is a robot's dataset and shows it already; paint --agent dot or none, or name a corpus of "
            "people's video"
        )
    root, tracks = root.expanduser(), tracks.expanduser()
    dataset = LeRobotDataset.open(root)
    painted = one_camera(dataset, camera)
    opened = agent or open_agent(paint, 0)
    if agent is None:
        expect_read(paint, "agent", AGENTS)
    settings = {**dataclasses.asdict(paint), "robot": None, "robot_tracks": None}
    settings |= {"agent": opened.name, "agent_identity": opened.identity, "camera": painted, "format": FORMAT}
    settings |= {"dataset": dataset_fingerprint(root), "dataset_contents": contents_fingerprint(root)}
    settings |= {"tracks_identity": tracks_identity(dataset, tracks)}
    run = Run(out, settings, summary=SUMMARY, record=RECORD, inside="settings", formats={"format": FORMAT}, alone=True)
    if (done := run.finished) is not None:
        return done
    with run.claim(), bar("painting", unit="files", quiet=quiet, keep=True) as show:
        view = view_of(opened, paint)
        assert view is not None  # but of a robot every agent has one
        found = paint_dataset(dataset, painted, tracks, Painter(opened, paint), view, run.folder, show)
        made_of = {"dataset": dataset.name, "fingerprint": settings["dataset"]}
        summary = {"settings": settings, "agent": opened.name, "view": view.to_json(), "made_of": made_of, **found}
        shown = shown_episodes(dataset, painted, run.folder, {each["episode"] for each in found["skipped"]})
        made = provenance_rows(provenance(), settings=json.dumps(settings))
        write_page(run.folder / PAGE, TEMPLATE, painting=summary, dataset=str(root), episodes=shown, made=made)
        rest = (
            f"{len(found['skipped'])} episodes are kept as they are" if found["skipped"] else "every episode is painted"
        )
        write_dataset_card(
            run.folder,
            f"{dataset.name}, with {opened.name} painted over its agent",
            {"made of": dataset.name, "camera painted": painted, "episodes painted": found["painted"]},
            {},
            [],
            job="crosspaint",
            tags=("cross-painting",),
            limits=[f"Its pictures are not as the camera took them ({painted}): {rest}."],
        )
        return run.finish(summary)


def shown_episodes(dataset: LeRobotDataset, camera: str, out: Path, skipped: set[int]) -> list[ShownEpisode]:
    """At most `SHOWN` of the painted episodes, evenly."""
    import numpy as np

    from corpora.episodes.frames import nearest_frames
    from corpora.episodes.pairing import pair
    from corpora.video.decode import DecodingReport
    from corpora.video.probe import probe

    places = [place for place in dataset.all_episodes((camera,)) if place.index not in skipped]
    found = []
    for number in np.linspace(0, len(places) - 1, min(SHOWN, len(places))).round().astype(int).tolist():
        place = places[number]
        span = place.videos[camera]
        strips = []
        for path in (span.path, out / span.path.relative_to(dataset.root)):
            facts = probe(path)
            paired = pair(facts, (span.from_s, span.to_s), None, dataset.fps)
            assert paired is not None  # it was painted
            times = facts.times[paired.shown]
            wanted = times[[round(moment * (len(times) - 1)) for moment in MOMENTS]]
            strips.append(
                [image for _, image in nearest_frames(path, facts, wanted, SIDE, 1 / dataset.fps, DecodingReport())]
            )
        found.append(ShownEpisode(place.index, place.text, [list(each) for each in zip(*strips, strict=False)]))
    return found


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
