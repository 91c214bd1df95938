"""`giza crosspaint`: a corpus like any other, in which another agent acts; what cannot be painted is named and not lost."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import jobs
from corpora.agent.painting import Dot
from corpora.agent.settings import PaintSettings
from corpora.agent.tracks import Tracks
from corpora.clips.corpus import Corpus
from corpora.clips.frames import open_clip_frames
from lapa.pairs.config import PairConfig
from lapa.pairs.reader import PairReader
from tests.builders.agents import FRAMES, METAL, SIZE, acted, write_acted, write_files
from tests.builders.browser import CHROMIUM, chromium

COUNT = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """people, robot: corpora; people_t, robot_t: their tracks."""
    home = tmp_path_factory.mktemp("crosspaint")
    for name, first, robot in (("people", 0, False), ("robot", 100, True)):
        clips = [acted(f"{first + number:016x}", first + number, robot=robot) for number in range(COUNT)]
        write_acted(home / name, clips, text="push")
        files = write_files(home / f"{name}_files", clips)
        jobs.track(home / name, home / f"{name}_t", source="files", files=files)
    return home


def paint(home: Path, out: Path, **fields):
    if fields.get("agent", "robot") == "robot":
        fields = {"robot": home / "robot", "robot_tracks": home / "robot_t", **fields}
    return jobs.crosspaint(home / "people", fields.pop("tracks", home / "people_t"), out, **fields)


def retracked(home: Path, folder: Path, change) -> Path:
    """Tracks of the same people, from files that `change` (number, file) makes; None: no file."""
    for number in range(COUNT):
        file = change(number, acted(f"{number:016x}", number).file)
        if file is not None:
            file.write(folder / "files" / f"{number:016x}.npz")
    jobs.track(home / "people", folder / "t", source="files", files=folder / "files")
    return folder / "t"


def close(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(image.astype(int) - colour) < 60).all(-1)


@pytest.mark.parametrize("agent", ["robot", "dot", "none"])
def test_it_is_a_corpus_with_the_same_clips_and_tracks_of_its_own(home: Path, agent: str, tmp_path: Path) -> None:
    corpus = paint(home, tmp_path / "out", agent=agent, **({"dot_radius": 0.1} if agent == "dot" else {})).corpus
    people = Corpus(home / "people")
    assert corpus.survey().kept.count == COUNT and corpus.survey().sources == people.survey().sources
    assert [row.clip_id for row in corpus.rows()] == [row.clip_id for row in people.rows()]
    assert corpus.identity != people.identity and corpus.fit == people.fit
    tracks, before = Tracks(tmp_path / "out" / "tracks", corpus), Tracks(home / "people_t", people)
    for clip, old in zip(corpus.read(), people.read(), strict=True):
        track, was = tracks[clip.row.clip_id], before[clip.row.clip_id]
        assert (clip.t_s == old.t_s).all() and (clip.camera["h"] == old.camera["h"]).all()
        assert (track.point_px == was.point_px).all() and tracks.clips[clip.row.clip_id].seen == FRAMES
        assert np.isfinite(was.opening).all() and (track.opening == was.opening).all()
        around = ~(was.mask | track.mask)
        assert np.abs(clip.frames.astype(int) - old.frames)[around].mean() < 4  # it was encoded again
        if agent == "robot":
            assert close(clip.frames, METAL)[track.mask].mean() > 0.7 and not np.allclose(track.depth_m, was.depth_m)
        else:
            assert agent == "none" or close(clip.frames, Dot.COLOUR)[track.mask].mean() > 0.6
            assert (track.depth_m == was.depth_m).all()
    assert tracks.summary["corpus_identity"] == corpus.identity
    assert open_clip_frames(corpus, SIZE, cache=tmp_path / "cache").table.valid.all()
    said = json.loads((tmp_path / "out" / "ingest.json").read_text("utf-8"))
    assert said["provenance"]["versions"]["python"] and said["painting"]["painted_clips"] == COUNT


def test_how_each_frame_was_painted_is_kept_and_shown(home: Path, tmp_path: Path) -> None:
    summary = paint(home, tmp_path / "out").summary["painting"]
    rows = pq.read_table(tmp_path / "out" / "painting" / "part-000000.parquet").to_pylist()
    assert len(rows) == COUNT * FRAMES == summary["frames_with_agent"]
    robots = {row.clip_id for row in Corpus(home / "robot").clips}
    for row in rows:
        clip_id, frame = row["cutout"].split(":")
        assert clip_id in robots and 0 <= int(frame) < FRAMES
        assert 0 <= row["before_px"] <= row["hidden_px"] > 100 and row["drawn_px"] > 100
    share = sum(row["before_px"] for row in rows) / sum(row["hidden_px"] for row in rows)
    assert summary["background_seen_before"] == pytest.approx(share) and 0.5 < share < 1
    page = (tmp_path / "out" / "crosspaint.html").read_text("utf-8")
    assert page.count('class="strip"') == COUNT and "3 of 3 clips painted" in page


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt install chromium)")
def test_the_page_is_no_wider_than_the_window(home: Path, tmp_path: Path) -> None:
    """Also where the corpus' path, which it names, is longer than a telephone is wide."""
    (tmp_path / ("long" * 20)).symlink_to(home)
    paint(tmp_path / ("long" * 20), tmp_path / "out")
    with chromium() as browser:
        for width in (400, 1400):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto((tmp_path / "out" / "crosspaint.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_killed_job_goes_on_and_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    class Dying(Dot):
        left = 2

        def stamps(self, track, shown):
            Dying.left -= 1
            if Dying.left < 0:
                raise KeyboardInterrupt
            return super().stamps(track, shown)

    dot = {"agent": "dot", "part_frames": FRAMES}
    paint(home, tmp_path / "whole", **dot)
    with pytest.raises(KeyboardInterrupt):
        paint(home, tmp_path / "out", opened=Dying(PaintSettings(agent="dot"), SIZE), **dot)
    with pytest.raises(ValueError, match="is not a corpus"):
        Corpus(tmp_path / "out")
    first = tmp_path / "out" / "shards" / "clips-000000.tar"
    done = first.stat().st_mtime_ns
    (tmp_path / "out" / "painting" / "part-000001.parquet").unlink()  # killed just before its last file
    paint(home, tmp_path / "out", **dot)
    assert first.stat().st_mtime_ns == done
    names = [path.relative_to(tmp_path / "whole") for path in sorted((tmp_path / "whole").rglob("*.*"))]
    assert len([name for name in names if name.suffix in (".tar", ".parquet")]) == 3 * COUNT + 2
    for name in names:
        if name.suffix in (".tar", ".parquet"):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    again = paint(home, tmp_path / "out", **dot)
    assert again.summary["already_finished"]
    with pytest.raises(ValueError, match=r"other settings \(settings.crosspaint.agent dot there and none here\)"):
        paint(home, tmp_path / "out", **{**dot, "agent": "none"})


def test_clips_without_a_track_are_kept_or_left_out_and_said(home: Path, tmp_path: Path) -> None:
    def change(number: int, file):
        if number == 1:  # a hand that leaves early
            file.mask[8:], file.point_px[8:] = False, np.nan
        return None if number == 2 else file

    tracks = retracked(home, tmp_path, change)
    kept = paint(home, tmp_path / "keep", agent="none", tracks=tracks)
    assert kept.summary["painting"]["reasons"] == {"seen_too_little": 1, "no_track": 1}
    told = {each["clip_id"]: each["detail"] for each in kept.summary["painting"]["skipped"]}
    assert told[f"{1:016x}"] == "the agent is seen in 8 of 24 frames, 33%; --min-seen 0.5"
    assert told[f"{2:016x}"].startswith("no_file")
    old = {clip.row.clip_id: clip.members["mp4"] for clip in Corpus(home / "people").stored()}
    new = {clip.row.clip_id: clip.members["mp4"] for clip in kept.corpus.stored()}
    assert [new[name] == old[name] for name in sorted(old)] == [False, True, True]
    assert "no_file" in (tmp_path / "keep" / "crosspaint.html").read_text("utf-8")
    dropped = paint(home, tmp_path / "drop", agent="none", tracks=tracks, untracked="drop", min_seen=0.2)
    assert [row.clip_id for row in dropped.corpus.clips] == [f"{0:016x}", f"{1:016x}"]
    gone = {row.clip_id: row.reason for row in dropped.corpus.rows() if not row.kept}
    assert gone == {f"{2:016x}": "no_track", "f" * 16: "too_short"}
    assert dropped.summary["reasons"]["no_track"]["count"] == 1
    assert len(list(dropped.corpus.read())) == 2
    leaving = dropped.summary["painting"]
    assert (leaving["frames"], leaving["frames_with_agent"]) == (2 * FRAMES, FRAMES + 8)


def test_no_agent_anywhere_is_said_and_nothing_is_lost(home: Path, tmp_path: Path, caplog) -> None:
    def change(number: int, file):
        return dataclasses.replace(file, mask=np.zeros_like(file.mask))

    tracks = retracked(home, tmp_path, change)
    found = paint(home, tmp_path / "out", tracks=tracks)
    assert found.summary["painting"]["painted_clips"] == 0 and len(found.corpus.clips) == COUNT
    assert "3 of 3 clips are not painted, 3 of them kept as they are and 0 left out: 3 no_track" in caplog.text
    (line,) = [each for each in caplog.messages if each.startswith("clips that are not painted and kept as they are: ")]
    assert f"3 such as clip {0:016x} of 'videos/{0:016x}.mp4': no_track: no_agent" in line
    assert "0 of 3 clips painted" in (tmp_path / "out" / "crosspaint.html").read_text("utf-8")


def test_where_the_robot_does_not_reach_is_said(home: Path, tmp_path: Path, caplog) -> None:
    def change(number: int, file):
        file.point_px[:6] = (2, 2)
        return file

    found = paint(home, tmp_path / "out", tracks=retracked(home, tmp_path, change)).summary["painting"]
    assert found["frames_far"] == 6 * COUNT and found["shift_px"]["p95"] > SIZE / 10
    assert "the robot's demonstrations do not reach there" in caplog.text


def test_two_people_are_both_taken_out_and_named(home: Path, tmp_path: Path, caplog) -> None:
    def change(number: int, file):
        if number == 0:
            file.mask[4:10, 2:10, 38:46] = True
        return file

    found = paint(home, tmp_path / "out", agent="none", tracks=retracked(home, tmp_path, change)).summary["painting"]
    assert found["frames_with_parts_apart"] == 6
    assert "in 6 of 72 frames the mask is in parts" in caplog.text


def test_a_robot_without_masks_is_refused_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    clips = [acted(f"{100 + number:016x}", 100 + number, robot=True) for number in range(COUNT)]
    for clip in clips:
        dataclasses.replace(clip.file, mask=np.zeros_like(clip.mask)).write(tmp_path / "files" / f"{clip.clip_id}.npz")
    jobs.track(home / "robot", tmp_path / "t", source="files", files=tmp_path / "files")
    with pytest.raises(ValueError, match=r"no frame of '.*robot' has both a mask and a point.*--agent none or dot"):
        paint(home, tmp_path / "out", robot_tracks=tmp_path / "t")
    with pytest.raises(ValueError, match="are not of the clips of"):
        paint(home, tmp_path / "out", tracks=home / "robot_t")
    with pytest.raises(ValueError, match="must be another folder than --corpus"):
        paint(home, home / "people")
    with pytest.raises(ValueError, match="^--scale hand: --agent dot does not read it"):
        paint(home, tmp_path / "out", agent="dot", scale="hand")
    with pytest.raises(ValueError, match="^--camera 'head': is of a robot's dataset"):
        paint(home, tmp_path / "out", camera="head")
    assert not (tmp_path / "out").exists()


def test_a_damaged_clip_is_a_row_with_its_reason(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "people", tmp_path / "people")
    shard = next((tmp_path / "people" / "shards").glob("*.tar"))
    data = shard.read_bytes()
    second = next(Corpus(home / "people").stored([f"{1:016x}"])).members["mp4"]
    shard.write_bytes(data.replace(second, b"\0" * len(second)))
    found = jobs.crosspaint(tmp_path / "people", home / "people_t", tmp_path / "out", agent="dot")
    assert found.summary["painting"]["reasons"] == {"decode_error": 1} and len(found.corpus.clips) == COUNT - 1
    assert found.summary["reasons"]["decode_error"]["count"] == 1


def test_the_robots_own_video_goes_through_the_same_door(home: Path, tmp_path: Path) -> None:
    found = jobs.crosspaint(home / "robot", home / "robot_t", tmp_path / "out", agent="dot")
    clip = next(found.corpus.read())
    background = acted(f"{100:016x}", 100, robot=True).background
    track = Tracks(tmp_path / "out" / "tracks", found.corpus)[clip.row.clip_id]
    gone = acted(f"{100:016x}", 100, robot=True).mask & ~track.mask
    assert close(clip.frames, METAL)[gone].mean() < 0.1
    assert np.abs(clip.frames[-1].astype(int) - background[-1])[~track.mask[-1]].mean() < 8


def test_latent_models_read_its_pairs_with_the_robot_in_them(home: Path, tmp_path: Path) -> None:
    corpus = paint(home, tmp_path / "out").corpus
    tracks = Tracks(tmp_path / "out" / "tracks", corpus)
    clip = next(corpus.read())
    pairs = PairReader(PairConfig(image_size=SIZE, extract_gap_s=0.5))(clip)
    first = 255 * pairs.first[0].permute(1, 2, 0).numpy()
    assert len(pairs) > 10 and close(first, METAL)[tracks[clip.row.clip_id].mask[0]].mean() > 0.6
