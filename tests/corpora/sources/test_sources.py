"""What is found: files, folders, globs, lists, tars and datasets, in a fixed order; and what is refused at once."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import corpora.sources
from corpora.episodes.truth import cut_truth
from corpora.sources.discover import find_sources
from corpora.sources.source import KINDS, File, Source, SourceDefaults, SourceKind
from tests.builders.datasets import CAMERAS, LENGTHS, TASKS, lerobot_v2, lerobot_v3, truth_of, webdataset
from tests.builders.videos import numbered_video


def found(*inputs: Path | str, skipped: Counter | None = None, **defaults) -> list[Source]:
    skipped = Counter() if skipped is None else skipped
    return list(find_sources([str(path) for path in inputs], SourceDefaults(**defaults), skipped=skipped))


def names(*inputs: Path | str, **defaults) -> list[str]:
    return [source.name for source in found(*inputs, **defaults)]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    (root / "b" / ".cache").mkdir(parents=True)
    for place in ("z.mp4", "a.GIF", "b/c.mkv", "b/.cache/hidden.mp4"):
        (root / place).write_bytes(b"")
    (root / "notes.txt").write_text("hello")
    (root / "b" / "data.json").write_text("{}")
    (root / "._z.mp4").write_bytes(b"\0\5\x16\7")
    (root / "code.ts").write_text("let x = 1")
    numbered_video(root / "b" / "nameless.mp4", 3).rename(root / "b" / "nameless")
    return root


def test_folders_are_walked_in_order_and_other_files_counted(folder):
    skipped: Counter[str] = Counter()
    assert [source.name for source in found(folder, skipped=skipped)] == ["a.GIF", "z.mp4", "b/c.mkv", "b/nameless"]
    assert skipped == {".txt": 1, ".json": 1, ".mp4": 1, ".ts": 1, "(hidden folder)": 1}


def test_globs_home_and_repeats(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert names("~/videos/*.mp4") == ["z.mp4"]
    assert names("~/videos/**/*.[mM][kK]v") == ["c.mkv"]
    assert names(folder / "z.mp4", folder / "z.mp4") == ["z.mp4"]


def test_names_from_several_folders_tell_them_apart(tmp_path):
    for place in ("one/videos", "two/videos", "three"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.mp4").write_bytes(b"")
    inputs = [tmp_path / "one/videos", tmp_path / "two/videos", tmp_path / "three"]
    assert names(*inputs) == ["one/videos/a.mp4", "two/videos/a.mp4", f"{tmp_path.name}/three/a.mp4"]


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("files", "inputs", "expected"),
    [
        (["1/cam.mp4", "2/cam.mp4"], ["*/cam.mp4"], ["1/cam.mp4", "2/cam.mp4"]),
        (["1/cam.mp4", "2/deep/cam.mp4"], ["1", "2/deep/cam.mp4"], ["1/cam.mp4", "cam.mp4"]),
        (["a/b.mp4", "b/b.mp4"], ["a/b.mp4", "b"], ["b.mp4", "b/b.mp4"]),
        (["a/b.mp4", "a/c/d.mp4"], ["a", "a/c", "a/b.mp4"], ["b.mp4", "c/d.mp4", "c/d.mp4", "b.mp4"]),
        (["1/list/a.mp4", "2/list/a.mp4"], ["1/list", "2/list.jsonl"], ["list/a.mp4", "2/list/a.mp4"]),
    ],
)
def test_no_two_videos_share_a_name_and_no_video_has_two(tmp_path, files, inputs, expected):
    """Names are what groups are made of, and groups what is held out."""
    touched(*(tmp_path / file for file in files))
    (tmp_path / "2").mkdir(exist_ok=True)
    (tmp_path / "2/list.jsonl").write_text('{"path": "./list/../list/a.mp4"}')
    made = found(*(tmp_path / each for each in inputs))
    assert [source.name for source in made] == expected
    assert [source.group for source in made] == expected
    assert len({source.name for source in made}) == len({source.media.path for source in made})


def test_tars_and_datasets_of_one_name_have_groups_of_their_own(tmp_path):
    video = numbered_video(tmp_path / "v.mp4", 3).read_bytes()
    for place in "ab":
        lerobot_v2(tmp_path / place / "arm")
        webdataset(tmp_path / place / "00000.tar", {"0.mp4": video})
    assert {source.group for source in found(tmp_path / "*/00000.tar")} == {"a/00000.tar/0", "b/00000.tar/0"}
    groups = {source.group for source in found(tmp_path / "a/arm", tmp_path / "b/arm")}
    assert groups == {f"{place}/arm/episode_{number:06d}" for place in "ab" for number in (0, 1)}


def test_one_video_of_two_lists_has_one_group(tmp_path):
    """However its path is written; what lies elsewhere is named by its whole path."""
    touched(tmp_path / "videos" / "a.mp4", tmp_path / "else" / "a.mp4")
    paths = {"one": "a.mp4", "two": str(tmp_path / "videos" / "a.mp4"), "three": "../else/a.mp4"}
    for name, path in paths.items():
        (tmp_path / "videos" / f"{name}.jsonl").write_text(json.dumps({"path": path}))
    lists = [tmp_path / "videos" / f"{name}.jsonl" for name in paths]
    assert names(*lists) == ["a.mp4", "a.mp4", str(tmp_path / "else" / "a.mp4")]
    assert names(*lists, tmp_path / "else")[:2] == ["videos/a.mp4", "videos/a.mp4"]


def test_a_name_that_is_no_utf8_is_escaped_and_its_bytes_opened(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    video = numbered_video(tmp_path / "v.mp4", 3)
    video.rename(os.fsdecode(folder + b"/\xff.mp4"))
    Path(os.fsdecode(folder + b"/notes.\xfe")).write_text("no video")
    skipped: Counter[str] = Counter()
    (source,) = found(tmp_path, skipped=skipped)
    assert (source.name, source.group, skipped) == ("caf\\udce9/\\udcff.mp4",) * 2 + ({".\\udcfe": 1},)
    with source.media.opened(tmp_path) as path:
        assert path.read_bytes()
    assert Source.from_json(json.loads(json.dumps(source.to_json()))) == source


@pytest.mark.parametrize("text", ["absent.mp4", "absent/*.mp4"])
def test_a_missing_input_stops_at_once(tmp_path, text):
    with pytest.raises(FileNotFoundError, match=r"absent.*(no such file|no file matches).*give existing paths"):
        found(tmp_path / text)


def test_lists_carry_times_text_tier_and_embodiment(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"x")
    lines = [
        {"path": "clips/a.mp4", "start": 1, "end": 2.5, "text": "pour", "tier": "synthetic", "embodiment": "hand"},
        {"path": str(tmp_path / "clips" / "a.mp4")},
        {"path": "clips/gone.mp4"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    first, second, third = found(path, tier="neural", text="default")
    assert (first.span_s, first.text, first.tier, first.embodiment) == ((1.0, 2.5), "pour", "synthetic", "hand")
    assert (second.span_s, second.text, second.tier) == ((0.0, None), "default", "neural")
    assert (third.fault, third.media.stamp) == ("", (0, 0))  # it may be there when its turn comes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{bad", "line 1: not JSON"),
        ('["a.mp4"]', 'has no "path"'),
        ('{"path": "a.mp4", "tier": "martian"}', "tier 'martian' is unknown; use one of human"),
        ('{"path": "a.mp4", "start": 3, "end": 2}', "end 2 is not after start 3"),
        ('{"path": "a.mp4", "start": -1}', "start -1 is no time"),
        ('{"path": "a.mp4", "begin": 1}', "unknown fields"),
    ],
)
def test_a_wrong_list_says_where_and_why(tmp_path, line, message):
    path = tmp_path / "list.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        found(path)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_lerobot_datasets_are_recognised_also_inside_a_folder(tmp_path, version):
    root = tmp_path / "in" / "robots" / "arm"
    lerobot_v3(root) if version == "v3.0" else lerobot_v2(root, version)
    direct, nested = found(root), found(tmp_path / "in")
    expected = [f"arm/episode_{episode:06d}/{camera}" for episode in (0, 1) for camera in CAMERAS]
    assert [source.name for source in direct] == expected
    assert [source.name for source in nested] == [f"robots/{name}" for name in expected]
    assert [source.group for source in direct] == [name.rpartition("/")[0] for name in expected]
    assert {(source.tier, source.embodiment) for source in direct} == {("robot", "two_link")}
    assert [source.text for source in direct] == [TASKS[0], TASKS[0], TASKS[1], TASKS[1]]
    assert [source.name for source in found(root, cameras=("side",))] == [name for name in expected if "side" in name]
    with pytest.raises(ValueError, match=r"cameras \['wrist'\].*has none of them; it has"):
        found(root, cameras=("wrist",))
    for source in direct:
        assert source.truth is not None
        rows, episode = source.truth.read(), source.truth.episode
        assert len(rows) == LENGTHS[episode]
        truth = {"t_s": rows.t_s, **rows.columns}
        for name, values in truth_of(episode).items():
            np.testing.assert_array_equal(truth[name], values)
        part = cut_truth(truth, 0.2, 0.4)
        np.testing.assert_allclose(part["t_s"], [0.2, 4 / 15, 1 / 3], atol=1e-6)


def test_a_dataset_without_actions_is_human_video(tmp_path):
    assert {source.tier for source in found(lerobot_v2(tmp_path / "d", actions=False))} == {"human"}
    assert {source.tier for source in found(tmp_path / "d", tier="synthetic")} == {"synthetic"}


def test_faulty_datasets_are_recorded(tmp_path):
    root = lerobot_v2(tmp_path / "d")
    os.remove(root / f"videos/chunk-000/{CAMERAS[1]}/episode_000001.mp4")
    assert [source.fault for source in found(root)] == ["", "", "", "missing_file"]
    (root / "meta" / "episodes.jsonl").write_text("{broken")
    assert [source.fault for source in found(root)] == ["unreadable"]
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": "v9.0"}))
    assert [source.fault for source in found(root)] == ["unsupported"]
    (root / "meta" / "info.json").write_text(json.dumps({**info, "features": {}}))
    assert [source.fault for source in found(root)] == ["no_video_stream"]
    (root / "meta" / "info.json").write_text("{")
    assert [source.fault for source in found(root)] == ["unreadable"]


def test_a_changed_file_is_another_source(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 3)
    (before,) = found(path)
    numbered_video(path, 4)
    (after,) = found(path)
    assert before.key != after.key
    assert Source.from_json(json.loads(json.dumps(after.to_json()))) == after


@pytest.fixture
def kinds() -> Iterator[list[SourceKind]]:
    """Those that there are; newcomers are forgotten afterwards."""
    there = list(KINDS)
    yield there
    KINDS[:] = there


def test_a_newcomer_adds_a_kind_by_one_class(tmp_path, kinds):
    """As from a notebook, and in a folder among others; registered again, it is there once."""
    video = numbered_video(tmp_path / "one.mkv", 3).rename(tmp_path / "one.bin")

    for _ in range(2):

        @corpora.sources.register
        class Pairs(SourceKind):
            def recognises(self, path: Path) -> bool:
                return path.suffix == ".pairs"

            def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source]:
                for line in path.read_text().split():
                    yield Source(name=f"{name}/{line}", group=name, media=File.at(path.parent / line))

    assert len(KINDS) == len(kinds) + 1
    (tmp_path / "a.pairs").write_text("one.bin one.bin")
    (tmp_path / "z.mp4").write_bytes(b"")
    assert names(tmp_path) == ["a.pairs/one.bin", "a.pairs/one.bin", "one.bin", "z.mp4"]
    (first, _) = found(tmp_path / "a.pairs", tier="synthetic")
    assert (first.group, first.tier, first.media) == ("a.pairs", "synthetic", File.at(video))


def test_what_cannot_be_looked_into_stops_nothing(tmp_path):
    """A path so long that none below it can be asked for; so it is with a folder that may be listed and not entered."""
    folder = tmp_path
    while (left := 4088 - len(str(folder))) > 1:
        folder = folder / ("d" * min(200, left - 1))
        folder.mkdir()
    (folder / "a.mp4").write_bytes(b"")
    (source,) = found(tmp_path)
    assert source.name.endswith("/a.mp4")


def test_links_to_folders_are_followed_once_and_what_is_left_out_is_counted(tmp_path):
    """A link back to where one is, one to a folder outside, another to the same, and one to a folder that comes later."""
    touched(tmp_path / "in/real/a.mp4", tmp_path / "out/b.mp4", tmp_path / "in/z/c.mp4")
    for link, target in {"in/real/up": "in", "in/d": "out", "in/e": "out", "in/f": "in/z"}.items():
        os.symlink(tmp_path / target, tmp_path / link)
    skipped: Counter[str] = Counter()
    assert [source.name for source in found(tmp_path / "in", skipped=skipped)] == ["d/b.mp4", "f/c.mp4", "real/a.mp4"]
    assert skipped == {"(folder already read)": 3}  # in/e, in/real/up and in/z


def test_a_folder_that_cannot_be_read_is_a_row(tmp_path, monkeypatch):
    touched(tmp_path / "a/b.mp4", tmp_path / "c/d.mp4")
    scandir = os.scandir

    def refused(path: str):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    bad, good = found(tmp_path)
    assert (bad.name, bad.fault, bad.fault_detail) == ("a", "unreachable", "PermissionError: Permission denied")
    assert good.name == "c/d.mp4"


def test_of_a_hub_cache_the_current_snapshot_alone_is_read(tmp_path):
    """Its blobs are the same files without names; an older revision holds the same videos again."""
    hub = tmp_path / "hub" / "datasets--lab--arm"
    whole = lerobot_v2(tmp_path / "arm")
    for number, path in enumerate(path for path in sorted(whole.rglob("*")) if path.is_file()):
        touched(hub / "blobs" / f"{number:040x}")
        path.rename(hub / "blobs" / f"{number:040x}")
        for revision in ("old", "new"):
            link = hub / "snapshots" / revision / path.relative_to(whole)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.relpath(hub / "blobs" / f"{number:040x}", link.parent), link)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("new")
    made = found(tmp_path / "hub")
    prefix = "datasets--lab--arm/snapshots/new"
    assert {source.group for source in made} == {f"{prefix}/episode_{number:06d}" for number in (0, 1)}
    assert all(source.text and source.truth for source in made)
    (hub / "refs" / "main").unlink()
    assert len(found(tmp_path / "hub")) == 2 * len(made)


def test_a_transport_stream_that_lost_its_beginning_is_a_source_and_typescript_is_none(tmp_path):
    """Odd videos, seed 5: neither used nor a row."""
    (tmp_path / "cut.ts").write_bytes(bytes.fromhex("6000bcaaf7dcd3d362fca0c5b08c39d8") * 20)
    (tmp_path / "code.ts").write_bytes(("// žluť\n" * 100).encode()[:399])  # the last character is cut
    (tmp_path / "latin.ts").write_text("let x = 1")
    skipped: Counter[str] = Counter()
    assert [source.name for source in found(tmp_path, skipped=skipped)] == ["cut.ts"]
    assert skipped == {".ts": 2}
