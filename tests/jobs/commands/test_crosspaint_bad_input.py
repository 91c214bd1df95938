"""Bad input of every kind at once, through `giza track` and `giza crosspaint`: each is named, nothing is lost, and killed jobs
go on to the same bytes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import jobs
from corpora.agent.files import TrackFiles
from corpora.agent.painting import Dot
from corpora.agent.settings import PaintSettings, TrackSettings
from corpora.clips.corpus import Corpus
from tests.builders.agents import FRAMES, SIZE, Acted, acted, write_acted

GOOD, NOBODY, TWO, LEAVES, OTHER_ASPECT, OTHER_SIZE, NO_FILE = range(7)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bad")
    absent = {NOBODY: range(FRAMES), LEAVES: range(16, FRAMES)}
    clips = [acted(f"{number:016x}", number, absent=absent.get(number, ())) for number in range(7)]
    write_acted(home / "people", clips, text="push")
    for number, clip in enumerate(clips[:NO_FILE]):
        write_file(home / "files" / f"{clip.clip_id}.npz", number, clip)
    return home


def write_file(path: Path, number: int, clip: Acted) -> None:
    file = clip.file
    if number == TWO:
        file.mask[4:10, 2:10, 38:46] = True
    elif number == OTHER_ASPECT:
        file = dataclasses.replace(file, mask=file.mask[:, :30])
    elif number == OTHER_SIZE:
        doubled = file.mask.repeat(2, 1).repeat(2, 2)
        file = dataclasses.replace(file, mask=doubled, point_px=((file.point_px + 0.5) * 2 - 0.5).astype(np.float32))
    file.write(path)


def same(one: Path, other: Path) -> None:
    names = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.suffix in (".tar", ".parquet")]
    assert names
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_all_kinds_at_once(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class DyingFiles(TrackFiles):
        def track(self, clip):
            if clip.row.clip_id == f"{LEAVES:016x}":
                raise KeyboardInterrupt
            return super().track(clip)

    class DyingDot(Dot):
        def stamps(self, track, shown):
            if not track.mask[-1].any():  # the one that leaves
                raise KeyboardInterrupt
            return super().stamps(track, shown)

    files = {"source": "files", "files": home / "files", "part_frames": 2 * FRAMES}
    jobs.track(home / "people", tmp_path / "whole_t", **files)
    dying = DyingFiles(TrackSettings(source="files", files=home / "files"), Corpus(home / "people"))
    with pytest.raises(KeyboardInterrupt):
        jobs.track(home / "people", tmp_path / "t", opened=dying, **files)
    tracked = jobs.track(home / "people", tmp_path / "t", **files).summary
    assert tracked["reasons"] == {"no_agent": 1, "mask_size": 1, "no_file": 1}
    same(tmp_path / "whole_t", tmp_path / "t")

    dot = {"agent": "dot", "dot_radius": 0.1, "part_frames": 2 * FRAMES}
    jobs.crosspaint(home / "people", tmp_path / "t", tmp_path / "whole", **dot)
    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        jobs.crosspaint(
            home / "people", tmp_path / "t", tmp_path / "out", opened=DyingDot(PaintSettings(agent="dot", dot_radius=0.1), SIZE), **dot
        )  # fmt: skip
    found = jobs.crosspaint(home / "people", tmp_path / "t", tmp_path / "out", **dot)
    same(tmp_path / "whole", tmp_path / "out")

    painting = found.summary["painting"]
    assert (painting["clips"], painting["painted_clips"], painting["kept_as_they_are"]) == (7, 4, 3)
    told = {int(each["clip_id"], 16): each["detail"] for each in painting["skipped"]}
    assert told[NOBODY].startswith("no_agent") and told[NO_FILE].startswith("no_file")
    assert told[OTHER_ASPECT] == "mask_size: masks of 48 x 30 pixels, a video of 1.000 to 1"
    assert painting["frames_with_parts_apart"] == 6  # two people
    assert painting["frames"] - painting["frames_with_agent"] == FRAMES - 16  # who leaves
    assert f"{FRAMES - 16} of {4 * FRAMES} frames of painted clips are as they were" in caplog.text
    page = (tmp_path / "out" / "crosspaint.html").read_text("utf-8")
    assert all(reason in page for reason in ("no_agent", "mask_size", "no_file"))

    old = {clip.row.clip_id: clip for clip in Corpus(home / "people").stored()}
    new = {clip.row.clip_id: clip for clip in found.corpus.stored()}
    assert old.keys() == new.keys()  # nothing is lost
    for number in (NOBODY, OTHER_ASPECT, NO_FILE):
        assert old[f"{number:016x}"].members["mp4"] == new[f"{number:016x}"].members["mp4"]
    leaving = new[f"{LEAVES:016x}"].frames().astype(int)
    red = (np.abs(leaving - Dot.COLOUR) < 90).all(-1).sum((1, 2))
    assert red[:16].min() > 20 and red[16:].max() < 5
    reasons = {
        row["clip_id"]: row["reason"]
        for row in pq.read_table(tmp_path / "out" / "tracks" / "_clips.parquet").to_pylist()
    }
    assert {int(name, 16) for name, reason in reasons.items() if reason} == {NOBODY, OTHER_ASPECT, NO_FILE}
    assert json.loads((tmp_path / "out" / "tracks" / "_track.json").read_text("utf-8"))["tracked_clips"] == 4
