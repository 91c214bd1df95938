"""What LAPA's `laq/inference_sthv2.py` writes: a line a frame, {"image": "videos/12/img_00003.jpg", "delta": ["3", "0", "7", "1"],
"instruction": ..., "vision": ..., "fields": ...}.

The image's folder is the video and its number the frame, from 0; the second frame is window_size frames later. A line says
neither, so the settings do. Near a video's end LAPA puts its last frame for the second: there are no two frames a gap apart
then, and the pair is left out for lying beyond the end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from lapa.foreign import jsonl
from lapa.foreign.row import Bad, Row, row_of
from lapa.foreign.settings import ForeignSettings

CODEBOOK_SIZE = 8
_NUMBER = re.compile(r"(\d+)$")
_FIRST_LINES = 20

files = jsonl.files


def takes(path: Path) -> bool:
    some = itertools.islice(jsonl.records(path), _FIRST_LINES)
    return any(isinstance(record, dict) and {"image", "delta"} <= record.keys() for _, record in some)


def rows(path: Path, settings: ForeignSettings) -> Iterator[Row | Bad]:
    if not settings.fps or not settings.gap_s:
        raise ValueError(
            f"latents '{path}': LAPA's lines number frames and say neither their rate nor the gap: give --foreign.fps (of the "
            "images) and --foreign.gap-s (window_size / fps)"
        )
    for where, record in jsonl.records(path):
        if isinstance(record, Bad):
            yield record
            continue
        folder, _, name = str(record.get("image", "")).replace("\\", "/").rpartition("/")
        number = _NUMBER.search(name.rpartition(".")[0])
        if not folder or number is None:
            yield Bad(where, "has an image that is no numbered frame in a folder", str(record.get("image"))[:80])
            continue
        known = {"video": folder, "t_s": int(number[1]) / settings.fps, "codes": record.get("delta")}
        yield row_of(where, known, settings.gap_s)
