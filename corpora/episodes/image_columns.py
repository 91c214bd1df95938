"""Images that a LeRobot dataset keeps in its Parquet files (features of type image) instead of in videos."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from corpora.episodes.columns import column_array
from corpora.episodes.episode import Episode, Episodes
from corpora.episodes.rows import CLOCK, NUMBER
from corpora.store.files import stamp_of
from corpora.store.frames import FrameFault, Images, Progress, Valid
from corpora.video.image import fit_square

_BATCH = 64
"""Rows whose images are in memory at once."""


def images_of(column: pa.ChunkedArray, root: Path) -> Iterator[NDArray[np.uint8]]:
    """uint8 [H, W, 3] RGB of each row: of an encoded file's bytes, or of a path below the dataset's `root`. Raises ValueError for a
    row that holds neither, or is no image."""
    for number, value in enumerate(column.to_pylist()):
        try:
            yield _image(value, root)
        except ValueError as error:
            raise ValueError(f"row {number}{error}") from error


def _image(value: Any, root: Path) -> NDArray[np.uint8]:
    record = value if isinstance(value, dict) else {"bytes": value}
    data, path = record.get("bytes"), record.get("path")
    if not data and not path:
        raise ValueError(" holds no image")
    try:
        with Image.open(io.BytesIO(data) if data else root / str(path)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f": its image cannot be read ({type(error).__name__})") from error


class ImageColumnReader:
    """Images in the data files (`files`: episode -> its own), row by row."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        self._files = files

    def fingerprint(self, episodes: Episodes) -> str:
        digest = hashlib.blake2b(episodes.t_s.tobytes(), digest_size=16)
        for episode in episodes.episodes:
            path = self._files[episode.index]
            facts = (
                episode.index,
                episode.start,
                episodes.cameras,
                str(path.relative_to(episodes.root)),
                stamp_of(path),
            )
            digest.update(repr(facts).encode())
        return digest.hexdigest()

    def fill(self, episodes: Episodes, images: Images, valid: Valid, progress: Progress | None) -> list[FrameFault]:
        by_file: dict[Path, list[Episode]] = defaultdict(list)
        for episode in episodes.episodes:
            by_file[self._files[episode.index]].append(episode)
        lacking: Counter[tuple[str, str, str]] = Counter()
        done = 0
        for path, mine in by_file.items():
            with pq.ParquetFile(path) as file:
                rows, owner = _places(file, mine)
                at = 0
                for batch in file.iter_batches(batch_size=_BATCH, columns=list(episodes.cameras)):
                    wanted = [place for place in range(batch.num_rows) if rows[at + place] >= 0]
                    for view, camera in enumerate(episodes.cameras):
                        column = batch.column(camera)
                        for place in wanted:
                            row = rows[at + place]
                            try:
                                image = _image(column[place].as_py(), episodes.root)
                            except ValueError as error:
                                lacking[owner[at + place], camera, f"row{error}"] += 1
                                continue
                            images[row, view], valid[row, view] = fit_square(image, images.shape[2], "stretch"), True
                    at, done = at + batch.num_rows, done + len(wanted)
                    if progress is not None:
                        progress(done, len(images))
        return [FrameFault(*key, count) for key, count in lacking.items()]


def _places(file: pq.ParquetFile, episodes: list[Episode]) -> tuple[NDArray[np.int64], list[str]]:
    """[N] of the file's rows: which row of the table each is, in the order in which an episode's rows are read, or -1; and the
    group of its episode."""
    names = file.schema_arrow.names
    order_by = NUMBER if NUMBER in names else CLOCK
    table = file.read(columns=[name for name in ("episode_index", order_by) if name in names])
    number = column_array(table.column(order_by), np.float64)[:, 0]
    of_row = (
        column_array(table.column("episode_index"), np.float64)[:, 0]
        if "episode_index" in names
        else np.full(len(number), episodes[0].index)
    )
    rows, owner = np.full(len(number), -1, np.int64), [""] * len(number)
    for episode in episodes:
        mine = np.flatnonzero(of_row == episode.index)
        assert len(mine) == len(episode.t_s), "the rows were read before"
        rows[mine[np.argsort(number[mine], kind="stable")]] = np.arange(episode.start, episode.stop)
        for place in mine:
            owner[place] = episode.group
    return rows, owner


REMEDY = "images lie inside of its Parquet files: giza export --dataset '{root}' --format lerobot-v3 --out FOLDER makes them video"
"""Of a dataset that is to be taken for video, and has no other."""
