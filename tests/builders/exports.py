"""Exports of the small corpora and datasets of these builders, and what `giza export` is told for them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.commands.export import ExportConfig, run
from lapa.exporting.settings import LatentRows
from tests.builders.datasets import CAMERAS, lerobot_v2

FILES = ("data", "meta", "videos", "README.md")
"""What peers see of a dataset."""


def exported(out: Path, corpus: Path, latents: Path, **fields: Any) -> Path:
    rows = LatentRows(**{name: fields.pop(name) for name in ("fps", "vector", "state", "min_s") if name in fields})
    run(ExportConfig(out=out, corpus=corpus, latents=latents, rows=rows, **fields))
    return out


def converted(out: Path, dataset: Path, form: str) -> Path:
    run(ExportConfig(out=out, dataset=dataset, format=form))  # type: ignore[arg-type]
    return out


def files_of(root: Path) -> dict[str, bytes]:
    """Every file of a dataset but the one that tells how it was made."""
    paths = (path for path in root.rglob("*") if path.is_file())
    named = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in named.items() if name.split("/")[0] in FILES}


def pictures_of(video: Path) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def with_images(root: Path) -> Path:
    """LeRobot v2.1 whose second camera's pictures lie in the data files, as PNG; the first camera is not there."""
    lerobot_v2(root)
    info = json.loads((root / "meta" / "info.json").read_text())
    del info["features"][CAMERAS[0]]
    info["features"][CAMERAS[1]]["dtype"] = "image"
    (root / "meta" / "info.json").write_text(json.dumps(info))
    for path in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(path)
        episode = table.column("episode_index")[0].as_py()
        images = [{"bytes": png(shade(episode, number)), "path": None} for number in range(len(table))]
        pq.write_table(table.append_column(CAMERAS[1], pa.array(images)), path)
    return root


def shade(episode: int, number: int) -> np.ndarray:
    return np.full((64, 48, 3), 60 * episode + 2 * number + 20, np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
