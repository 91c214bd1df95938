"""The sample corpus that the repository ships, made by `python -m jobs.commands.sample_corpus --out corpora/sample`.

Four LeRobot v3.0 datasets of the six default tasks: {robot, hand} x {still, moving}, 20 frames a second, 96 pixels. The
hand's have images and instructions alone, as people's videos have; their actions, states and camera truth lie beside
them in `hand_still.truth.parquet` and `hand_moving.truth.parquet`. Each has a
seed of its own: no two episodes are alike.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.simulation.settings import EpisodeSettings
from corpora.video.encoding import VideoEncoding
from jobs.cli import parse
from jobs.commands.simulate import SimulateConfig, run

PARTS = ("robot_still", "robot_moving", "hand_still", "hand_moving")
CAMERA_MOTION_PX = 4.0
MAX_BYTES = 4 * 10**6


@dataclass(frozen=True)
class SampleCorpusConfig:
    """How the sample corpus is made; the defaults make the one that is committed."""

    out: Path
    """Folder of the four datasets; the same command again resumes."""
    episodes: int = 8
    """For each task and dataset."""
    size: int = 96
    """Height and width of the image in pixels."""
    crf: int = 24
    """x264's constant rate factor."""
    seed: int = 100
    """Of the first dataset; the others take the next ones."""


def part_config(config: SampleCorpusConfig, part: str) -> SimulateConfig:
    """What `giza simulate` is told for one of PARTS."""
    appearance, _, camera = part.partition("_")
    hand = appearance == "hand"
    return SimulateConfig(
        out=config.out / part,
        episodes=config.episodes,
        size=config.size,
        appearance="hand" if hand else "robot",
        action_free=hand,
        truth=config.out / f"{part}.truth.parquet" if hand else None,
        episode=EpisodeSettings(
            seed=config.seed + PARTS.index(part),
            noise=(0.0, 0.3, 0.6),
            camera_motion=CAMERA_MOTION_PX if camera == "moving" else 0.0,
            max_steps=200,
            frame_every=4,
        ),
        encoding=VideoEncoding(crf=config.crf, keyframe_frames=16, preset="veryslow"),
    )


def make_sample(config: SampleCorpusConfig) -> dict[str, Any]:
    """Simulates the four datasets; returns their episodes, frames and bytes. Raises ValueError where they pass 4 MB."""
    parts = {part: run(part_config(config, part)) for part in PARTS}
    size = sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"the sample corpus has {size} bytes, at most {MAX_BYTES} are allowed; raise --crf")
    return {
        "episodes": sum(summary["episodes"] for summary in parts.values()),
        "frames": sum(summary["frames"] for summary in parts.values()),
        "bytes": size,
    }


def main(argv: Sequence[str]) -> None:
    """The command line."""
    print(json.dumps(make_sample(parse(SampleCorpusConfig, argv, job="sample-corpus"))))


if __name__ == "__main__":
    main(sys.argv[1:])
