"""Rows and videos that change in place are another run's data, though the metadata stay as they were."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora.episodes.contents import contents_fingerprint
from corpora.episodes.opening import dataset_fingerprint
from corpora.episodes.tf_records import checksums, records
from tests.builders.datasets import FPS, LENGTHS, lerobot_v2, lerobot_v3
from tests.builders.rlds import record, rlds
from tests.builders.videos import textured, write_video


def test_wherever_it_lies_and_whenever_it_was_copied(tmp_path: Path) -> None:
    root = lerobot_v3(tmp_path / "arm")
    shutil.copytree(root, tmp_path / "elsewhere" / "leg", copy_function=shutil.copyfile)
    os.utime(next((tmp_path / "elsewhere").rglob("*.mp4")), (1, 1))
    (tmp_path / "elsewhere" / "leg" / "README.md").write_text("seen")
    assert contents_fingerprint(root) == contents_fingerprint(tmp_path / "elsewhere" / "leg")
    with pytest.raises(ValueError, match="no dataset of episodes"):
        contents_fingerprint(tmp_path)


def test_a_number_or_a_video_that_changes_is_seen(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm")
    meta, before = dataset_fingerprint(root), contents_fingerprint(root)
    table = sorted(root.rglob("*.parquet"))[0]
    rows = pq.read_table(table)
    action = np.array(rows["action"].to_pylist(), np.float32)
    middle = np.argsort(action[:, 0])[len(action) // 2]  # neither least nor largest: the footer stays as it was
    action[middle, 0] = np.nextafter(action[middle, 0], np.float32(9))
    place = rows.column_names.index("action")
    pq.write_table(rows.set_column(place, "action", pa.array(action.tolist(), rows.schema.field("action").type)), table)
    changed = contents_fingerprint(root)
    video = sorted(root.rglob("*.mp4"))[0]
    write_video(video, [textured(48, 64, 3)] * LENGTHS[0], fps=FPS)
    assert len({before, changed, contents_fingerprint(root)}) == 3
    assert dataset_fingerprint(root) == meta


def test_a_record_that_changes_is_seen_without_being_read(tmp_path: Path) -> None:
    root = rlds(tmp_path / "rlds")
    before = contents_fingerprint(root)
    path = sorted(root.glob("*.tfrecord*"))[0]
    found = [bytearray(content) for content, _ in records(path)]
    assert len(list(checksums(path))) == 2 * len(found)
    found[0][len(found[0]) // 2] ^= 1
    path.write_bytes(b"".join(record(bytes(content)) for content in found))
    changed = contents_fingerprint(root)
    path.write_bytes(path.read_bytes()[:-5])
    assert len({before, changed, contents_fingerprint(root)}) == 3
