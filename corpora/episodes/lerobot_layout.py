"""Where meta/info.json says that the files of a LeRobot dataset lie, and what is there instead where it is wrong."""

from __future__ import annotations

import glob
import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corpora.store.told import listed, nearest
from corpora.video.probe import describe


def file_of(root: Path, info: Mapping[str, Any], kind: str, place: Mapping[str, Any]) -> Path:
    """`kind`: video_path or data_path of info.json. `place`: chunk_index, episode_index or file_index, video_key; the chunk
    is known as episode_chunk, too (v2). Raises ValueError for a template that they do not fill."""
    fields = {**place, "episode_chunk": place["chunk_index"]}
    try:
        return root / info[kind].format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(
            f"meta/info.json: {kind} {info.get(kind)!r} cannot be filled in ({describe(error)}); it may name {list(fields)}"
        ) from error


def first_video(root: Path, info: Mapping[str, Any], camera: str) -> Path:
    """Where the first file of a camera should be. Raises ValueError as `file_of`."""
    place = {"chunk_index": 0, "episode_index": 0, "file_index": 0, "video_key": camera}
    return file_of(root, info, "video_path", place)


def any_video(root: Path, info: Mapping[str, Any], camera: str) -> Path | None:
    """A file of this camera that is where info.json has it; None: there is none. Raises ValueError as `file_of`."""
    first_video(root, info, camera)
    pattern = ""
    for literal, name, _, _ in string.Formatter().parse(info["video_path"]):
        pattern += glob.escape(literal) + ({None: "", "video_key": glob.escape(camera)}.get(name, "*"))
    return next(root.glob(pattern), None)


def why_missing(root: Path, path: Path) -> str:
    """`path`, which is not there, and the folder that comes nearest where already a folder on the way to it is not."""
    inside, at = path.relative_to(root), root
    for name in inside.parts[:-1]:
        if not os.path.isdir(at / name):
            folders = sorted(entry.name for entry in os.scandir(at) if entry.is_dir())
            near = nearest(name, folders)
            there = (
                f"the nearest is '{(at / near).relative_to(root)}'"
                if near
                else f"'{at.relative_to(root)}' holds {listed(folders)}"
            )
            return (
                f"{inside}: there is no folder '{(at / name).relative_to(root)}', {there}; rename it, or correct "
                "meta/info.json"
            )
        at = at / name
    return str(inside)
