"""What `giza export` says of a dataset of latents beside its rows: read again here, and by whoever wants to know where it is from.

meta/giza.json            which model made the latents, how far apart its frames are, what a report found, what was left out
meta/giza_episodes.jsonl  of each episode: its clip, its source video, its licence
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corpora.store.files import json_lines, read_json

SIDECAR = "meta/giza.json"
EPISODES = "meta/giza_episodes.jsonl"
TIME, GAP, CODES = "latent.t_s", "latent.gap_s", "latent.codes"
"""Columns beside the action: source time of the pair's first frame (s), its gap (s), its codes. None begins with "action", which
LeRobot takes for one."""


def clips_of(root: Path) -> dict[int, str]:
    """Episode -> clip_id of a dataset that `giza export` wrote of latents; {} of any other. Raises ValueError where one of its
    files is damaged."""
    if (read_json(root / SIDECAR) or {}).get("kind") != "latents" or not (root / EPISODES).is_file():
        return {}
    records: list[dict[str, Any]] = [record for _, record in json_lines(root / EPISODES)]
    return {int(record["episode_index"]): str(record["clip_id"]) for record in records}
