"""The reader: rows, clips and truth as they were written; a clear word where something is not a corpus."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

import corpora
from corpora.clips.corpus import SHARDS, Corpus, decode_clip, iterate_shard
from corpora.clips.manifest import ManifestWriter, read_manifest
from corpora.ingestion.settings import IngestSettings
from tests.builders.datasets import lerobot_v2
from tests.builders.videos import numbered_video


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    root = tmp_path_factory.mktemp("reader")
    (root / "v").mkdir()
    for seed in range(3):
        numbered_video(root / "v" / f"{seed}.mp4", 45, seed=seed)
    lerobot_v2(root / "v" / "arm")
    settings = IngestSettings(size=64, clip_s=1.5, camera_gap_s=0.2, shard_mb=0.1)
    return corpora.ingest(root / "v", root / "c", settings, workers=1)


def test_clips_come_in_the_order_of_the_manifest(corpus):
    assert [clip.row for clip in corpus.read()] == corpus.clips
    assert [row for row in corpus.rows() if row.kept] == corpus.clips
    assert len({row.shard for row in corpus.clips}) > 1


def test_some_clips_are_the_same_as_among_all(corpus):
    whole = {clip.row.clip_id: clip for clip in corpus.read()}
    wanted = corpus.clips[::-3]
    some = list(corpus.read(row.clip_id for row in wanted))
    assert {clip.row for clip in some} == set(wanted)
    for clip in some:
        np.testing.assert_array_equal(clip.frames, whole[clip.row.clip_id].frames)
        np.testing.assert_array_equal(clip.t_s, whole[clip.row.clip_id].t_s)
    assert list(corpus.read([])) == []


def test_a_clip_decodes_to_the_pixels_that_each_frame_alone_has(corpus):
    ids = [row.clip_id for row in corpus.clips]
    members = dict(iterate_shard(corpus.folder / SHARDS / corpus.clips[0].shard, ids, {"mp4"}))
    for mp4 in (members[row.clip_id]["mp4"] for row in corpus.clips if row.clip_id in members):
        with av.open(io.BytesIO(mp4)) as container:
            alone = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        np.testing.assert_array_equal(decode_clip(mp4), alone)


def test_truth_without_video_is_that_of_the_clips(corpus):
    truth = corpus.truth()
    with_truth = [clip for clip in corpus.read() if clip.truth is not None]
    assert set(truth) == {clip.row.clip_id for clip in with_truth} < {row.clip_id for row in corpus.clips}
    assert corpus.truth_features == {"action": 2, "observation.state": 3}
    for clip in with_truth:
        for name, values in clip.truth.items():
            np.testing.assert_array_equal(truth[clip.row.clip_id][name], values)
            assert values.dtype == (np.float64 if name == "t_s" else np.float32)


def test_times_without_video_are_those_of_the_clips(corpus):
    ids = [row.clip_id for row in corpus.clips[:4]]
    times = corpus.times(ids)
    assert list(times) == ids
    for clip in corpus.read(ids):
        np.testing.assert_array_equal(times[clip.row.clip_id], clip.t_s)


@pytest.mark.parametrize("make", [lambda root: root / "absent", lambda root: root])
def test_what_is_no_corpus_says_how_to_make_one(tmp_path, make):
    with pytest.raises(ValueError, match=r"is not a corpus.*giza ingest VIDEOS --out"):
        Corpus(make(tmp_path))


def test_a_damaged_shard_is_named(corpus, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(corpus.folder, copy)
    (first, second, *_) = sorted((copy / "shards").iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=f"{first.name} lacks"):
        list(Corpus(copy).read())


def test_the_manifest_is_written_whole_or_not_at_all(corpus, tmp_path):
    rows = list(corpus.rows())
    with ManifestWriter(tmp_path / "m.parquet") as writer:
        for _ in range(200):
            for row in rows:
                writer.append(row)
    assert list(read_manifest(tmp_path / "m.parquet")) == rows * 200
    writer = ManifestWriter(tmp_path / "n.parquet")
    writer.append(rows[0])
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert not Path(tmp_path / "n.parquet").exists()


def test_clips_and_truth_by_their_ids(corpus):
    ids = [row.clip_id for row in corpus.clips]
    assert [clip.row.clip_id for clip in corpus.read(limit=2)] == ids[:2]
    assert {clip.row.clip_id for clip in corpus.read(ids[3:])} == set(ids[3:])
    whole = corpus.truth()
    assert whole and set(whole) < set(ids)
    assert set(corpus.truth([*list(whole)[:1], ids[0]])) <= {*list(whole)[:1], ids[0]}
    with pytest.raises(ValueError, match=r"clips nothing: corpus .* has none of these ids"):
        corpus.read(["nothing"])


def test_the_survey_counts_what_is_kept_and_what_is_dropped(corpus):
    survey = corpus.survey()
    rows = list(corpus.rows())
    assert survey.kept.count == len(corpus.clips) and survey.sources == len({row.source for row in rows})
    dropped = {reason: each.count for reason, each in survey.dropped.items()}
    assert dropped == dict(Counter(row.reason for row in rows if not row.kept))
    assert set(survey.tiers) == {row.tier for row in corpus.clips} and survey.truth_features["action"] == 2
    assert f"{survey.sources} sources, {len(corpus.clips)} clips" in str(survey)


def test_the_python_face_is_cheap_and_whole():
    """Every name resolves; importing it loads nothing that computes."""
    for name in corpora.__all__:
        assert getattr(corpora, name) is not None
    assert dir(corpora) == sorted(corpora.__all__)
    with pytest.raises(AttributeError, match="no attribute 'clip'"):
        corpora.clip  # noqa: B018
    code = "import sys, corpora; assert not {'torch', 'av', 'cv2', 'pyarrow', 'numpy'} & set(sys.modules)"
    code += "; corpora.EpisodeSelection(); assert not {'torch', 'av', 'cv2', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_corpus_is_what_its_clips_show_wherever_the_videos_lay(tmp_path: Path) -> None:
    """C7."""
    video = tmp_path / "a" / "video.mp4"
    video.parent.mkdir()
    numbered_video(video, 40)
    copy = tmp_path / "b" / "below" / "video.mp4"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(video.read_bytes())
    os.utime(copy, (1, 1))
    (tmp_path / "c").mkdir()
    numbered_video(tmp_path / "c" / "video.mp4", 40, seed=1)
    settings = IngestSettings(size=64, clip_s=1.0)

    def identity(folder: Path, how: IngestSettings = settings) -> str:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        made = corpora.ingest(str(folder), out, how)
        assert made.clips
        return made.identity

    first = identity(video.parent)
    assert identity(tmp_path / "b") == first
    assert identity(tmp_path / "c") != first
    assert identity(video.parent, dataclasses.replace(settings, size=48)) != first
