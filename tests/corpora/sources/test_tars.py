"""Videos in tars: every one, under a name and group of its own, with its text; damage and what is no video are told."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from corpora.clips.corpus import Corpus
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.sources.discover import find_sources
from corpora.sources.source import Source, SourceDefaults, TarMember
from tests.builders.datasets import webdataset
from tests.builders.videos import numbered_video


def found(path: Path, skipped: Counter[str] | None = None) -> list[Source]:
    return list(find_sources([str(path)], SourceDefaults(), skipped=Counter() if skipped is None else skipped))


def below(path: Path) -> list[tuple[str, str, str]]:
    """(name, group, text) without the tar's name."""
    return [
        (source.name.partition("/")[2], source.group.partition("/")[2], source.text)
        for source in found(path)
        if not source.fault
    ]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    return numbered_video(tmp_path_factory.mktemp("v") / "v.mp4", 5).read_bytes()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (
            ["Cooking vol. 2.mp4", "Cooking vol. 2.txt", "Cooking vol. 3.mp4", "Cooking vol. 3.txt"],
            [("Cooking vol. 2",) * 3, ("Cooking vol. 3",) * 3],
        ),
        (
            ["clip_0.5-9.5.mp4", "clip_0.5-9.5.txt", "clip_0.12-14.mp4", "clip_0.12-14.json"],
            [("clip_0.5-9.5",) * 3, ("clip_0.12-14",) * 3],
        ),
        (
            ["00001.json", "00001.left.mp4", "00001.right.mp4", "00002.left.mp4", "00002.left.txt", "00002.right.mp4"],
            [
                ("00001.left", "00001", "00001"),
                ("00001.right", "00001", "00001"),
                ("00002.left", "00002", "00002.left"),
                ("00002.right", "00002", ""),
            ],
        ),
        (["7.0.mp4", "7.1.mp4", "7.txt"], [("7.0", "7", "7"), ("7.1", "7", "7")]),  # notes behind their videos
        (["v1.0_a.mp4", "v1.0_b.mp4"], [("v1.0_a", "v1.0_a", ""), ("v1.0_b", "v1.0_b", "")]),
        (["./s.1/a.mp4", "./s.1/a.txt"], [("s.1/a", "s.1/a", "s.1/a")]),
        (["GH010042.LRV", "GS010042.360"], [("GH010042",) * 2 + ("",), ("GS010042",) * 2 + ("",)]),
        (["0001", "0001.txt", "take two. A"], [("0001",) * 3, ("take two. A",) * 2 + ("",)]),
        (["a.mp4.bin", "a.mp4.txt"], [("a.mp4.bin", "a.mp4", "a.mp4")]),
        (["a.mp4", "a.webm"], [("a.mp4", "a", ""), ("a.webm", "a", "")]),
    ],
)
def test_names_with_dots_hide_no_video_and_part_it_from_no_text(tmp_path, video, members, expected):
    """A note holds its own name without its suffix; what is no note is a video, whatever it is called."""

    def content(name: str) -> bytes:
        stem, suffix = os.path.splitext(name.removeprefix("./"))
        return {".txt": stem.encode(), ".json": json.dumps({"caption": stem}).encode()}.get(suffix, video)

    assert below(webdataset(tmp_path / "w.tar", {name: content(name) for name in members})) == expected


def test_they_are_ingested_with_their_texts(tmp_path):
    clip = numbered_video(tmp_path / "v.mp4", 30).read_bytes()
    other = numbered_video(tmp_path / "u.mp4", 30, seed=5).read_bytes()
    members = {"take. 1": clip, "take. 1.txt": b"pour", "b.left.mp4": other, "b.json": b'{"caption": "stir"}'}
    settings = IngestSettings(size=64)
    path = webdataset(tmp_path / "w.tar", members)
    make_corpus([str(path)], settings, SourceDefaults(), IngestRun(tmp_path / "c"))
    rows = [(row.source, row.group, row.text, row.kept) for row in Corpus(tmp_path / "c").rows()]
    assert rows == [("w.tar/take. 1", "w.tar/take. 1", "pour", True), ("w.tar/b.left", "w.tar/b", "stir", True)]


def test_what_is_no_video_is_counted(tmp_path, video):
    skipped: Counter[str] = Counter()
    members = {
        "a.mp4": video,
        "a.txt": b"x",
        "a.jpg": b"\xff\xd8",
        "._a.mp4": b"\0\5",
        "b.ts": b"let x",
        "LICENSE": b"MIT",
    }
    assert len(found(webdataset(tmp_path / "w.tar", members), skipped)) == 1
    assert skipped == {".jpg": 1, ".mp4": 1, ".ts": 1, "(none)": 1}


def test_two_members_of_one_name_are_two_videos(tmp_path, video):
    path = webdataset(tmp_path / "w.tar", {"a.mp4": video})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.size = len(video)
        tar.addfile(info, io.BytesIO(video))
    assert [name for name, _, _ in below(path)] == ["a.mp4", "a.mp4#2"]


def test_a_link_to_a_video_is_a_row(tmp_path, video):
    path = webdataset(tmp_path / "w.tar", {"a.mp4": video})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("b.mp4")
        info.type, info.linkname = tarfile.SYMTYPE, "a.mp4"
        tar.addfile(info)
    assert [(source.name, source.fault) for source in found(path)] == [("w.tar/a", ""), ("w.tar/b", "unsupported")]


def test_tars_joined_end_to_end_are_read_whole(tmp_path, video):
    parts = [webdataset(tmp_path / f"{name}.tar", {f"{name}.mp4": video}).read_bytes() for name in "ab"]
    (tmp_path / "w.tar").write_bytes(b"".join(parts))
    assert [source.name for source in found(tmp_path / "w.tar")] == ["w.tar/a", "w.tar/b"]


def test_a_damaged_header_in_the_middle_is_told_and_passed_over(tmp_path, video):
    path = webdataset(tmp_path / "w.tar", {f"{name}.mp4": video for name in "abc"})
    data = bytearray(path.read_bytes())
    place = data.index(b"b.mp4")
    data[place : place + 200] = bytes([7] * 200)
    path.write_bytes(data)
    first, last, damage = found(path)
    assert [first.name, last.name, damage.name] == ["w.tar/a", "w.tar/c", "w.tar"]
    assert (damage.fault, damage.fault_detail) == ("unreadable", f"what lies behind byte {place} is no member of a tar")


def test_tars_of_videos_with_captions(tmp_path):
    video = numbered_video(tmp_path / "v.mp4", 5).read_bytes()
    caption = json.dumps({"caption": "from json", "video_metadata": {}}).encode()
    members = {
        "0001.mp4": video,
        "0001.txt": b"from txt",
        "0001.json": caption,
        "0002.json": caption,
        "0002.webm": video,
    }
    members |= {"0003.json": b"{}", "sub/0004.mp4": video, "sub/0004.json": b"not json"}
    first, second, fourth = found(webdataset(tmp_path / "w.tar", members))
    assert (first.name, first.text) == ("w.tar/0001", "from txt")
    assert isinstance(second.media, TarMember)
    assert (second.name, second.text, second.media.suffix) == ("w.tar/0002", "from json", ".webm")
    assert (fourth.name, fourth.text) == ("w.tar/sub/0004", "")
    with second.media.opened(tmp_path) as copy:
        assert copy.read_bytes() == video
    assert not copy.exists()


def test_damaged_tars_give_what_comes_before_the_damage(tmp_path):
    video = numbered_video(tmp_path / "v.mp4", 20).read_bytes()
    path = webdataset(tmp_path / "w.tar", {f"{number:04d}.mp4": video for number in range(4)})
    path.write_bytes(path.read_bytes()[: len(video) * 5 // 2])
    *good, bad = found(path)
    assert [source.name for source in good] == ["w.tar/0000", "w.tar/0001"]
    assert bad.fault == "unreadable"
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_text("no tar " * 200)
    assert {source.fault for source in found(tmp_path / "text.tar")} == {"unreadable"}
    assert len(found(tmp_path / "empty.tar")) == 1
    assert found(webdataset(tmp_path / "none.tar", {"a.txt": b"x"}))[0].fault == "no_video_stream"
