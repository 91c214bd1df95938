"""What the machine cannot read now is tried again; it is never kept as a verdict on the data."""

from __future__ import annotations

import dataclasses
import errno
import tarfile
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora.agent.track import Untracked
from corpora.agent.track_file import TrackFile
from corpora.clips.corpus import SHARDS, Corpus
from corpora.clips.frames import open_clip_frames
from corpora.clips.parts import part_paths, plan_parts, read_footer
from corpora.episodes.frames import open_episode_frames
from corpora.episodes.lerobot import LeRobotDataset
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.ingestion.stage import stage_source
from corpora.ingestion.staged import clear_unfinished, read_staged, staged_path
from corpora.mixture.label_kinds import Latents
from corpora.sources.discover import find_sources
from corpora.sources.source import Source, SourceDefaults
from corpora.store.files import machine_trouble
from lapa.pairs.reader import _stored_clips
from tests.builders.datasets import CAMERAS, lerobot_v2, lerobot_v3, opened, webdataset
from tests.builders.videos import numbered_video

SMALL = IngestSettings(size=32, clip_s=1.0, min_clip_s=0.4, camera_gap_s=0.2)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Reading files of this name ('*.mp4': of all such names) fails as a disk does; "": nothing fails any more."""
    failing_name: list[str] = []
    table, tar, load, opener = pq.ParquetFile, tarfile.TarFile.next, np.load, Path.open

    rows = pq.read_table

    def check(name: Any) -> None:
        if fnmatch(Path(name).name, failing_name[-1]):
            raise OSError(errno.EIO, "Input/output error", str(name))

    def read_table(name: Any, *args: Any, **kwargs: Any) -> Any:
        check(name)
        return table(name, *args, **kwargs)

    def read_rows(name: Any, *args: Any, **kwargs: Any) -> Any:
        check(name)
        return rows(name, *args, **kwargs)

    def next_member(self: tarfile.TarFile) -> Any:
        check(self.name)
        return tar(self)

    def read_arrays(name: Any, *args: Any, **kwargs: Any) -> Any:
        check(name)
        return load(name, *args, **kwargs)

    def open_file(self: Path, *args: Any, **kwargs: Any) -> Any:
        check(self)
        return opener(self, *args, **kwargs)

    def set_name(to: str) -> None:
        failing_name.append(to)

    set_name("")
    monkeypatch.setattr(pq, "ParquetFile", read_table)
    monkeypatch.setattr(pq, "read_table", read_rows)
    monkeypatch.setattr(tarfile.TarFile, "next", next_member)
    monkeypatch.setattr(np, "load", read_arrays)
    monkeypatch.setattr(Path, "open", open_file)
    return set_name


def staged(source: Source, folder: Path) -> dict[str, Any]:
    clear_unfinished(folder)
    task = {"source": source.to_json(), "settings": dataclasses.asdict(SMALL), "staging": str(folder), "seed": 0}
    return stage_source(task, lambda: None)


def sources(root: Path) -> list[Source]:
    return list(find_sources([str(root)], SourceDefaults(), skipped=Counter()))


def test_damaged_bytes_and_files_that_are_not_there_are_no_trouble_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    for name, expected in (("bad.parquet", False), ("gone.parquet", False)):
        with pytest.raises((OSError, pa.ArrowException)) as caught:
            pq.ParquetFile(tmp_path / name)
        assert machine_trouble(caught.value) is expected
    assert machine_trouble(PermissionError(13, "Permission denied"))
    assert machine_trouble(pa.lib.ArrowMemoryError("malloc of size 64 failed"))


def test_ground_truth_that_cannot_be_read_now_is_read_next_time(tmp_path: Path, failing: Callable[[str], None]) -> None:
    source = sources(lerobot_v2(tmp_path / "pick"))[0]
    failing("episode_000000.parquet")
    assert staged(source, tmp_path / "staging")["retry"] == "unreachable"
    failing("")
    assert "retry" not in staged(source, tmp_path / "staging")
    clips = list(read_staged(staged_path(tmp_path / "staging", source)))
    assert clips and all("truth.npz" in clip.members for clip in clips if clip.row.kept)


def test_ground_truth_that_is_gone_or_damaged_costs_no_video(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "pick")
    found = sources(root)
    data = sorted(root.rglob("episode_*.parquet"))
    data[0].unlink()
    data[1].write_bytes(data[1].read_bytes()[:-20])
    for source in (found[0], next(each for each in found if "000001" in each.group)):
        assert "retry" not in staged(source, tmp_path / "staging")
        kept = [clip for clip in read_staged(staged_path(tmp_path / "staging", source)) if clip.row.kept]
        assert kept and all("no ground truth" in clip.row.detail for clip in kept)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda folder: webdataset(folder / "in" / "some.tar", {"a.txt": b"x", "b.txt": b"y"}), "some.tar"),
        (lambda folder: lerobot_v3(folder / "in" / "pick"), "file-000.parquet"),
        (lambda folder: lerobot_v2(folder / "in" / "pick"), "episodes.jsonl"),
    ],
)
def test_what_cannot_be_listed_now_is_listed_next_time(
    tmp_path: Path, failing: Callable[[str], None], make: Callable[[Path], Path], name: str
) -> None:
    (tmp_path / "in").mkdir()
    numbered_video(tmp_path / "in" / "z.mp4", 20)
    make(tmp_path)
    before = sources(tmp_path / "in")
    failing(name)
    found = sources(tmp_path / "in")
    assert [source.fault for source in found if source.fault] == ["unreachable"]
    assert "z.mp4" in [source.name for source in found]
    bad = next(source for source in found if source.fault)
    assert staged(bad, tmp_path / "staging")["retry"] == "unreachable"
    failing("")
    assert sources(tmp_path / "in") == before


def test_a_folder_that_comes_back_is_ingested_by_the_same_command(
    tmp_path: Path, failing: Callable[[str], None]
) -> None:
    (tmp_path / "in").mkdir()
    numbered_video(tmp_path / "in" / "a.mp4", 20)
    video = (tmp_path / "in" / "a.mp4").read_bytes()
    webdataset(tmp_path / "in" / "b.tar", {"c.mp4": video})
    failing("b.tar")
    run = IngestRun(tmp_path / "c")
    assert make_corpus([str(tmp_path / "in")], SMALL, SourceDefaults(), run)["retry"] == {"unreachable": 1}
    failing("")
    assert make_corpus([str(tmp_path / "in")], SMALL, SourceDefaults(), run)["retry"] == {}
    assert {row.source for row in Corpus(run.out).rows()} == {"a.mp4", "b.tar/c"}


def test_no_table_of_images_is_kept_that_lacks_what_cannot_be_read_now(
    tmp_path: Path, failing: Callable[[str], None]
) -> None:
    """FFmpeg takes a disk that fails for damage."""
    root = lerobot_v2(tmp_path / "pick")
    video = sorted(root.rglob("episode_000001.mp4"))[0]
    video.write_bytes(b"what a failing disk gives")
    episodes = opened(root)
    failing(video.name)
    with pytest.raises(OSError, match="Input/output error"):
        open_episode_frames(episodes, 32, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("frames-*"))
    failing("")
    assert len(open_episode_frames(episodes, 32, cache=tmp_path / "cache").faults) == 1


def test_episodes_are_not_left_out_of_a_training_by_a_disk(tmp_path: Path, failing: Callable[[str], None]) -> None:
    root = lerobot_v2(tmp_path / "pick")
    failing("episode_000001.parquet")
    with pytest.raises(OSError, match="Input/output error"):
        opened(root)


def test_shards_and_track_files_are_read_next_time(
    tmp_path: Path, failing: Callable[[str], None], tiny_corpus: Path
) -> None:
    part = plan_parts(Corpus(tiny_corpus).clips, 1000)[0]
    shard = tiny_corpus / SHARDS / part.shard
    assert shard.is_file()
    failing(part.shard)
    with pytest.raises(OSError, match="Input/output error"):
        list(_stored_clips(tiny_corpus, part))
    (tmp_path / "a.npz").write_bytes(b"no archive")
    failing("")
    with pytest.raises(Untracked, match="a.npz"):
        TrackFile.read(tmp_path / "a.npz")
    failing("a.npz")
    with pytest.raises(OSError, match="Input/output error"):
        TrackFile.read(tmp_path / "a.npz")


def test_parts_are_not_called_damaged_by_a_disk_or_a_mount_that_went_away(
    tmp_path: Path, failing: Callable[[str], None], tiny_latents: Path, tiny_corpus: Path
) -> None:
    """Who is told to remove them would lose the work of hours."""
    clips, labels = open_clip_frames(Corpus(tiny_corpus), 8, cache=tmp_path), Latents(tiny_latents)
    part = part_paths(tiny_latents)[0]
    failing(part.name)
    for read in (lambda: read_footer(part), lambda: labels.read(clips, "latent", 4)):
        with pytest.raises(OSError, match="Input/output error"):
            read()
    with pytest.raises(FileNotFoundError):
        read_footer(tmp_path / "gone.parquet")
    failing("")
    assert len(labels.read(clips, "latent", 4).rows) > 0
    (tmp_path / part.name).write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        read_footer(tmp_path / part.name)


def test_a_camera_is_not_taken_for_one_of_colours_because_its_video_cannot_be_read_now(
    tmp_path: Path, failing: Callable[[str], None]
) -> None:
    """Depth maps would be ingested as pictures; a camera that is asked for is not looked at."""
    root = lerobot_v2(tmp_path / "pick")
    for path in root.rglob("*.mp4"):
        path.write_bytes(b"what a failing disk gives")
    dataset = LeRobotDataset.open(root)
    failing("*.mp4")
    with pytest.raises(OSError, match="Input/output error"):
        dataset.is_depth(CAMERAS[0])
    assert [source.fault for source in sources(root)] == ["unreachable"]
    named = find_sources([str(root)], SourceDefaults(cameras=CAMERAS), skipped=Counter())
    assert [source.fault for source in named] == [""] * 4
    failing("")
    assert not dataset.is_depth(CAMERAS[0])
