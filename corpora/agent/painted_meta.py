"""What the metadata of a painted LeRobot dataset say of the camera that was painted: its view, its codec, its statistics."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.episodes.lerobot import PAINTED
from corpora.episodes.lerobot_stats import Stats, merge_image_stats
from corpora.store.files import json_lines, read_json, write_json, write_text, written_whole
from corpora.video.view import View

log = logging.getLogger(__name__)


def tell_painted(
    root: Path,
    out: Path,
    camera: str,
    view: View,
    unpainted: Mapping[int, str],
    files: Sequence[Stats],
    episodes: Mapping[int, Stats],
) -> None:
    """Writes to `out` those files of the metadata of `root` that speak of the camera, as they are now true.

    `unpainted`: episodes that are as they were -> why. `files`, `episodes`: statistics of the new pictures, of each file, and
    of each painted episode.
    """
    info = json.loads((root / "meta" / "info.json").read_text("utf-8"))
    feature = info["features"][camera]
    if isinstance(told := feature.get("info"), dict) and "video.codec" in told:
        told |= {"video.codec": "h264", "video.pix_fmt": "yuv420p"}
    left = {str(episode): why for episode, why in sorted(unpainted.items())}
    feature[PAINTED] = {"view": view.to_json(), "unpainted_episodes": left}
    stats = read_json(root / "meta" / "stats.json")
    if stats is not None and camera in stats and files:
        stats[camera] = _like(stats[camera], merge_image_stats(files))
        write_json(out / "meta" / "stats.json", stats)
    lines = root / "meta" / "episodes_stats.jsonl"
    if lines.is_file():
        records = [record for _, record in json_lines(lines)]
        for record in records:
            new = episodes.get(int(record["episode_index"]))
            if new is not None and camera in record["stats"]:
                record["stats"][camera] = _like(record["stats"][camera], new)
        write_text(out / "meta" / lines.name, "".join(f"{json.dumps(record)}\n" for record in records))
    for path in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        table = _with_stats(pq.read_table(path), camera, episodes)
        with written_whole(out / path.relative_to(root)) as temporary:
            pq.write_table(table, temporary)
    write_json(out / "meta" / "info.json", info)


def _like(old: Mapping[str, Any], new: Stats) -> dict[str, Any]:
    """The statistics that there were."""
    return {name: new[name] for name in old if name in new}


def _with_stats(table: pa.Table, camera: str, episodes: Mapping[int, Stats]) -> pa.Table:
    """Columns stats/CAMERA/NAME with the new statistics; left out, and told, where they do not fit the column."""
    numbers = table["episode_index"].to_pylist()
    for place, field in reversed(list(enumerate(table.schema))):
        before, _, name = field.name.rpartition("/")
        if before != f"stats/{camera}":
            continue
        old = table[field.name].to_pylist()
        new = [
            episodes[at].get(name, value) if at in episodes else value for at, value in zip(numbers, old, strict=True)
        ]
        try:
            table = table.set_column(place, field, pa.array(new, field.type))
        except pa.ArrowException as error:
            log.warning("column %s is left out: it does not hold the new statistics (%s)", field.name, error)
            table = table.remove_column(place)
    return table
