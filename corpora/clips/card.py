"""What a corpus of clips says of itself to people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corpora.clips.survey import CorpusSurvey
from corpora.store.card import write_card

USAGE = (
    "import giza",
    'corpus = giza.Corpus("this folder")',
    "for clip in corpus.read():",
    "    clip.frames, clip.t_s  # uint8 [T, S, S, 3] RGB, seconds in its source [T]",
    "    clip.row.source, clip.row.text, clip.frame_index  # video, instruction, which of its frames [T]",
)


def write_corpus_card(folder: Path, summary: Mapping[str, Any], *, painted: str = "") -> None:
    """README.md of the corpus in `folder`; `summary`: what its ingest.json is going to say; `painted`: the agent that
    `giza crosspaint` painted into it."""
    from huggingface_hub import DatasetCardData

    survey, settings = CorpusSurvey.of(summary), summary["config"]["settings"]
    facts = {
        "sources looked at": survey.sources,
        "clips kept": survey.kept.count,
        "hours kept": f"{survey.kept.hours:.3f}",
    }
    if {"size", "max_fps"} <= {*settings}:
        facts["frames"] = f"{settings['size']} px square, of at most {settings['max_fps']:g} a second"
    for title, counts in (("tier", survey.tiers), ("embodiment", survey.embodiments), ("left out", survey.dropped)):
        facts |= {f"{title}: {name}": f"{each.count} clips, {each.hours:.3f} h" for name, each in counts.items()}
    if survey.truth_features:
        facts["ground truth"] = ", ".join(f"`{name}` {width}" for name, width in survey.truth_features.items())
    header = DatasetCardData(
        license="unknown",
        task_categories=["robotics"],
        tags=["giza", "video", "webdataset", *survey.tiers],
        configs=[{"config_name": "default", "data_files": "shards/*.tar"}],
    )
    limits = [
        "The clips are parts of videos that have licences of their own, which giza does not know: see `manifest.parquet`, column "
        "`source`, before they are passed on.",
        "Clips hold no actions, but for the ground truth of robot datasets, which is there to measure by.",
        "What was left out, and why, stands in `manifest.parquet`, columns `reason` and `detail`.",
    ]
    if painted:
        limits.insert(0, f"The pictures are not as the camera took them: `{painted}` was painted over whoever acts.")
    write_card(
        folder,
        header,
        "Clips of video, made by giza",
        about=["Windows of one shot each, at training resolution, in WebDataset tars (`shards/`) with a manifest."],
        usage=USAGE,
        facts=facts,
        sections={},
        limits=limits,
    )
