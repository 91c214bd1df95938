"""Parts of another job are refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from corpora.clips.manifest import ClipRow
from corpora.clips.parts import Part, PartKey, finished_parts, read_footer, write_part, write_rows
from lapa.latents import LatentKey, Latents

KEY = PartKey("model", "corpus", 99, 1)
ROWS = pa.table({"clip_id": ["a"]})


def test_a_part_of_another_job_is_no_traceback(tmp_path: Path) -> None:
    part = Part(0, "clips-000000.tar", ())
    for made in ('{"model": "idm", "horizon": 4}', '{"key": 3}', '{"key": {"gap_s": 0.5}, "digest": ""}'):
        write_rows(tmp_path / part.name, ROWS, made)
        with pytest.raises(ValueError, match="part-000000.parquet holds no latents"):
            Latents(tmp_path)
        with pytest.raises(ValueError, match="part-000000.parquet holds no tracks"):
            read_footer(tmp_path / part.name).key(PartKey, "tracks")
        with pytest.raises(ValueError, match="part-000000.parquet was written by another job.*--out"):
            finished_parts(tmp_path, [part], KEY)


def test_of_the_key_of_a_job_what_all_jobs_have_is_read(tmp_path: Path) -> None:
    part = Part(0, "clips-000000.tar", (ClipRow("a", "a.mp4", "a"),))
    write_part(tmp_path, part, KEY, ROWS)
    footer = read_footer(tmp_path / part.name)
    assert footer.key(PartKey, "tracks") == KEY and finished_parts(tmp_path, [part], KEY)[0].clips == 1
    with pytest.raises(ValueError, match="holds no latents: lacking @ gap_s; lacking @ stride_s"):
        footer.key(LatentKey, "latents")
    key = LatentKey("model", "corpus", 99, format=1, gap_s=0.5, stride_s=0.1)
    write_part(tmp_path, part, key, ROWS)
    assert read_footer(tmp_path / part.name).key(PartKey, "tracks") == KEY
