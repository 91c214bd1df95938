"""One video to be cut into clips, wherever it lies: in a file, in a tar, in a dataset of episodes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"}
    | {".3gp", ".ogv", ".y4m", ".h264", ".h265", ".hevc", ".ivf"}
)


@dataclass(frozen=True)
class Source:
    """One video, or one stretch of a video, to be cut into clips. JSON through `dataclasses.asdict`."""

    name: str
    """As shown to people."""
    group: str
    """Unit of hold-out."""
    path: str
    """File that holds the video: a video file, or the tar around it."""
    stamp: tuple[int, int] = (0, 0)
    """Size and modification time (ns) of that file, so that a changed file is done again."""
    selector: str = ""
    """Camera and episode, or the tar's key: tells apart what shares a file."""
    start_s: float = 0.0
    end_s: float | None = None
    """The stretch of the file to use; None: to its end."""
    origin_s: float = 0.0
    """Time of the file that is the source's zero (an episode's beginning in a file of several)."""
    text: str = ""
    tier: str = ""
    embodiment: str = ""
    tar_offset: int = -1
    """Where a tar's member begins; -1: the file itself is the video."""
    tar_bytes: int = 0
    tar_suffix: str = ""
    truth_path: str = ""
    """Parquet file with the episode's states and actions."""
    truth_episode: int = -1
    fault: str = ""
    """Reason, where it is already known that there is nothing to decode."""
    fault_detail: str = ""

    @property
    def key(self) -> str:
        """32 hex digits that change with anything that changes the result."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @staticmethod
    def from_json(record: dict[str, Any]) -> Source:
        return Source(**{**record, "stamp": tuple(record["stamp"])})
