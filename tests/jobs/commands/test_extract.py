"""Extraction: the rows are those of a slow loop; kills, order, batches, threads and engines do not change them; damage
is recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from corpora.clips.corpus import Corpus, decode_clip, iterate_shard
from corpora.clips.parts import plan_parts
from corpora.video.nearest import every_stride, pair_indices
from jobs.benchmarks.extract import random_model
from jobs.commands.extract import ExtractConfig, run
from lapa.extraction.engine import BatchEncoder
from lapa.latents import SCHEMA
from lapa.model.checkpoint import load_lam, model_hash, save_lam
from lapa.model.config import LamConfig
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.pairs.config import PairConfig
from lapa.pairs.flow import pair_flow
from lapa.pairs.pair import camera_of_pairs, resize_frames, stabilise
from lapa.pairs.reader import PairReader
from lapa.recipes import RECIPES
from tests.builders.corpora import write_corpus
from tests.builders.latents import assert_same_rows, parts, rows
from tests.builders.processes import run_apart

GAP_S, STRIDE_S = 0.5, 0.1
SEEDS = tuple(range(10))


@pytest.fixture(scope="module")
def lam(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lam")
    random_model(RECIPES["debug"].model, folder, 0)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", SEEDS)


@pytest.fixture(scope="module")
def whole(lam, corpus, tmp_path_factory) -> Path:
    """The latents of an uninterrupted run, in several parts."""
    out = tmp_path_factory.mktemp("latents") / "whole"
    extract(lam, corpus, out)
    return out


def extract(lam: Path, corpus: Path, out: Path, **options) -> dict:
    options = {"part_frames": 40, "measure_s": 0.0, "device": "cpu", "batch_size": 8, **options}
    return run(ExtractConfig(lam=lam, corpus=corpus, out=out, gap_s=options.pop("gap_s", GAP_S), **options))


def slow_rows(lam: Path, corpus: Path) -> list[dict]:
    """One pair at a time, from the whole clip, as the documentation puts it."""
    model = load_lam(lam)
    found = []
    for clip in Corpus(corpus).read():
        small = resize_frames(clip.frames, model.config.pair.image_size)
        starts, ends = pair_indices(clip.t_s, GAP_S)
        motions, ratios = camera_of_pairs(clip.camera, dict(enumerate(clip.frames)), starts, ends)
        last = -1.0
        for i, j, h, ratio in zip(starts, ends, motions, ratios, strict=True):
            if clip.t_s[i] < last + STRIDE_S - 1e-6:
                continue
            last = clip.t_s[i]
            before, after, known = stabilise(small[i], small[j], h, compensate=True)
            first, second = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 255 for x in (before, after))
            valid = torch.from_numpy(known)[None, None].float()
            flow = torch.from_numpy(pair_flow(before, after))[None]
            with torch.no_grad():
                encoding = model.encode(PairBatch(first, second, valid, flow=flow))
            luma = [x @ np.array([0.299, 0.587, 0.114]) for x in (clip.frames[i], clip.frames[j])]
            found.append(
                {
                    "clip_id": clip.row.clip_id,
                    "t_s": clip.t_s[i],
                    "gap_s": clip.t_s[j] - clip.t_s[i],
                    "codes": encoding.codes.flatten().tolist(),
                    "latent": encoding.latent.flatten().tolist(),
                    "quantized": encoding.quantized.flatten().tolist(),
                    "motion": float(np.abs(luma[0] - luma[1]).mean()),
                    "camera": h.flatten().tolist(),
                    "camera_inlier_ratio": ratio,
                }
            )
    return found


def test_rows_are_those_of_one_pair_at_a_time(lam, corpus, whole):
    made = {(row["clip_id"], row["t_s"]): row for row in rows(whole)}
    expected = slow_rows(lam, corpus)
    assert len(made) == len(expected) > 60
    moved = 0
    for want in expected:
        row = made[want["clip_id"], want["t_s"]]
        assert row["codes"] == want["codes"]
        assert row["gap_s"] == want["gap_s"]
        for name in ("latent", "quantized", "camera", "camera_inlier_ratio"):
            np.testing.assert_allclose(row[name], want[name], atol=1e-5)
        assert row["motion"] == pytest.approx(want["motion"], abs=0.6)  # OpenCV rounds luma to whole numbers
        assert (row["source"], row["group"]) == (
            f"video{int(row['clip_id'], 16)}.mp4",
            f"video{int(row['clip_id'], 16)}",
        )
        assert (row["tier"], row["embodiment"], row["model_hash"]) == ("human", "hand", model_hash(lam))
        moved += row["camera"] != np.eye(3).flatten().tolist()
    assert moved > 20


def test_no_pair_is_clamped_or_doubled(corpus, whole):
    times = Corpus(corpus).times()
    seen = set()
    for row in rows(whole):
        t_s = times[row["clip_id"]]
        second = row["t_s"] + row["gap_s"]
        assert np.abs(t_s - row["t_s"]).min() < 1e-9 and np.abs(t_s - second).min() < 1e-9
        half = np.median(np.diff(t_s)) / 2
        assert abs(row["gap_s"] - GAP_S) <= max(0.1 * GAP_S, half) + 1e-6
        assert row["t_s"] + GAP_S <= t_s[-1] + half + 1e-6
        assert (row["clip_id"], row["t_s"]) not in seen
        seen.add((row["clip_id"], row["t_s"]))
    for clip in {clip for clip, _ in seen}:
        starts = np.sort([t for c, t in seen if c == clip])
        assert np.diff(starts).min() >= STRIDE_S - 1e-6


def test_what_a_clip_cannot_give_is_recorded(whole):
    summary = json.loads((whole / "_extract.json").read_text())
    assert summary["skipped_reasons"] == {"shorter_than_gap": 1}
    assert summary["skipped"][0]["source"] == "video3.mp4"
    assert (summary["clips"], summary["pairs"], summary["parts"]) == (9, len(rows(whole)), len(parts(whole)))
    assert summary["pairs_per_s"] > 0 and summary["peak_memory_mb"] > 0


def test_stage_speeds_are_measured_in_the_same_run(lam, corpus, tmp_path):
    summary = extract(lam, corpus, tmp_path / "out", measure_s=0.1)
    assert summary["decode_pairs_per_s"] > 0 and summary["model_pairs_per_s"] > 0
    assert summary["end_to_end_over_slower_stage"] > 0


@pytest.mark.parametrize("options", [{"batch_size": 64}, {"workers": 3}, {"part_frames": 4096}])
def test_batches_threads_and_parts_do_not_change_rows(lam, corpus, whole, tmp_path, options):
    extract(lam, corpus, tmp_path / "out", **options)
    assert_same_rows(rows(tmp_path / "out"), rows(whole))


def test_the_order_of_clips_does_not_change_rows(lam, whole, tmp_path):
    other = write_corpus(tmp_path / "c", SEEDS[::-1], shard_mb=1)
    extract(lam, other, tmp_path / "out")
    assert_same_rows(rows(tmp_path / "out"), rows(whole))


def test_the_same_command_gives_the_same_bytes(lam, corpus, whole, tmp_path):
    extract(lam, corpus, tmp_path / "out")
    assert parts(tmp_path / "out") == parts(whole)


def test_a_second_run_does_nothing(lam, corpus, tmp_path):
    out = tmp_path / "out"
    summary = extract(lam, corpus, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != ".lock"}
    again = extract(lam, corpus, out)
    assert again == {**summary, "already_finished": True}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_lost_parts_are_made_again_and_only_those(lam, corpus, whole, tmp_path):
    out = tmp_path / "out"
    extract(lam, corpus, out)
    (out / "_extract.json").unlink()
    (out / "part-000001.parquet").unlink()
    (out / "part-000002.parquet.tmp").write_bytes(b"half")
    kept = (out / "part-000000.parquet").stat().st_mtime_ns
    summary = extract(lam, corpus, out)
    assert parts(out) == parts(whole)
    assert (out / "part-000000.parquet").stat().st_mtime_ns == kept
    assert summary["pairs_this_run"] < summary["pairs"] == len(rows(whole))


def test_other_latents_in_the_folder_are_refused(lam, corpus, whole, tmp_path):
    with pytest.raises(ValueError, match=r"other settings \(gap_s 0.5 there and 0.3 here\).*give another --out"):
        extract(lam, corpus, whole, gap_s=0.3)
    random_model(RECIPES["debug"].model, tmp_path / "lam", 1)
    with pytest.raises(ValueError, match=r"other settings \(model_hash .* give another --out"):
        extract(tmp_path / "lam", corpus, whole)
    with pytest.raises(ValueError, match=r"part_frames 40 there and 50 here"):
        extract(lam, corpus, whole, part_frames=50)


def test_faults_of_the_user_are_named(lam, corpus, whole, tmp_path):
    with pytest.raises(ValueError, match="train-lam"):
        extract(tmp_path, corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="giza ingest"):
        extract(lam, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="gap_s -1"):
        extract(lam, corpus, tmp_path / "out", gap_s=-1.0)
    save_lam(LatentActionModel(replace(RECIPES["debug"].model)), tmp_path / "new")
    if not all(bool(b) for n, b in load_lam(tmp_path / "new").named_buffers() if n.endswith("initted")):
        with pytest.raises(ValueError, match="never seen data"):
            extract(tmp_path / "new", corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_recorded_and_the_rest_is_extracted(lam, whole, tmp_path):
    root = write_corpus(tmp_path / "c", SEEDS, shard_mb=0.03)
    clips = Corpus(root).clips
    by_shard: dict[str, list[str]] = {}
    for clip in clips:
        by_shard.setdefault(clip.shard, []).append(clip.clip_id)
    names = sorted(by_shard)
    assert len(names) >= 4
    (root / "shards" / names[0]).unlink()  # gone
    (root / "shards" / names[1]).write_bytes(b"not a tar" * 100)
    path = root / "shards" / names[2]  # one clip's video is overwritten
    data = path.read_bytes()
    (first,) = (m["mp4"] for key, m in iterate_shard(path, {by_shard[names[2]][0]}, {"mp4"}))
    path.write_bytes(data.replace(first, bytes(len(first))))
    path = root / "shards" / names[3]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])  # cut short
    summary = extract(lam, root, tmp_path / "out")
    reasons = {record["clip_id"]: record["reason"] for record in summary["skipped"]}
    good = [row for row in rows(whole) if row["clip_id"] not in reasons]
    assert {reasons[clip] for clip in by_shard[names[0]]} == {"shard_unreadable"}
    assert {reasons[clip] for clip in by_shard[names[1]]} == {"shard_unreadable"}
    assert reasons[by_shard[names[2]][0]] == "clip_damaged"
    assert any(clip in reasons for clip in by_shard[names[3]])
    assert_same_rows(rows(tmp_path / "out"), good)


def test_only_wanted_frames_are_converted_and_they_are_the_readers(corpus):
    (shard,) = sorted((corpus / "shards").iterdir())[:1]
    for _, members in iterate_shard(shard, {row.clip_id for row in Corpus(corpus).clips}, {"mp4"}):
        frames = decode_clip(members["mp4"])
        some = decode_clip(members["mp4"], {0, 2, len(frames) - 1}, count=len(frames))
        np.testing.assert_array_equal(some, frames[[0, 2, -1]])
        with pytest.raises(ValueError, match="were stored"):
            decode_clip(members["mp4"], {0}, count=len(frames) + 1)


def test_stride_keeps_the_first_and_then_the_next_far_enough():
    t_s = np.array([0.0, 0.04, 0.1, 0.15, 0.21, 0.5])
    assert every_stride(t_s, np.arange(6), 0.1).tolist() == [True, False, True, False, True, True]
    assert every_stride(t_s, np.arange(6), 0.0).all()


def test_frozen_features_are_computed_once_a_frame(corpus):
    config = LamConfig(
        dim=32, heads=2, input="both", flow_weight=0.0, target="frozen", feature_dim=3,
        feature_patches=16, pair=PairConfig(camera_compensation=False, flow="none"), tokens=2, latent_dim=8, decoder_depth=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LatentActionModel(config).eval()
    seen: list[int] = []

    def featurise(frames: np.ndarray) -> np.ndarray:
        seen.append(len(frames))
        side = frames.shape[1] // 4
        grid = frames.reshape(len(frames), 4, side, 4, side, 3).mean((2, 4)) / 255
        return grid.reshape(len(frames), 16, 3).astype(np.float16)

    plan = plan_parts(Corpus(corpus).clips, 4096)
    reader = PairReader(config.pair, (GAP_S,), STRIDE_S, featurise=featurise)
    encoder, frames = BatchEncoder(model, 8), []
    for _, row, pairs in reader.read(corpus, plan):
        if isinstance(pairs, PairBatch):
            encoder.add(pairs)
            (clip,) = Corpus(corpus).read([row.clip_id])
            first, second = pair_indices(clip.t_s, GAP_S)
            keep = every_stride(clip.t_s, first, STRIDE_S)
            frames.append((resize_frames(clip.frames, 64), first[keep], second[keep]))
    latent = encoder.finish()["latent"]
    assert seen == [len({*first, *second}) for _, first, second in frames]
    images, first, second = frames[0]
    with torch.no_grad():
        features = [torch.from_numpy(featurise(images[[k[0]]])).float() for k in (first, second)]
        alone = model.encoder(*features, None, None)
    np.testing.assert_allclose(latent[0], alone.flatten(), atol=1e-5)


def die_writing_part(number: int, lam: Path, corpus: Path, out: Path) -> None:
    """Before the file gets its name: the worst moment."""
    real = os.replace

    def killed(temporary: Path, path: Path) -> None:
        if Path(path).name == f"part-{number:06d}.parquet":
            os.kill(os.getpid(), signal.SIGKILL)
        real(temporary, path)

    os.replace = killed
    extract(lam, corpus, out)


def test_killed_in_the_middle_and_resumed_it_gives_the_same_bytes(lam, corpus, whole, tmp_path):
    out = tmp_path / "killed"
    for number in (1, 3):
        assert run_apart(die_writing_part, number, lam, corpus, out, log=tmp_path / "log") == -signal.SIGKILL
        assert list(parts(out)) == sorted(
            [*(f"part-{done:06d}.parquet" for done in range(number)), f"part-{number:06d}.parquet.tmp"]
        )
    extract(lam, corpus, out)
    assert parts(out) == parts(whole)
    assert json.loads((out / "_extract.json").read_text())["pairs"] == len(rows(out))


def start(lam: Path, corpus: Path, out: Path) -> subprocess.Popen:
    flags = ["--gap-s", str(GAP_S), "--part-frames", "40", "--measure-s", "0", "--batch-size", "8", "--device", "cpu"]
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "extract",
        "--lam",
        str(lam),
        "--corpus",
        str(corpus),
        "--out",
        str(out),
    ]
    return subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(lam, tmp_path):
    corpus = write_corpus(tmp_path / "c", [seed for seed in range(100) if seed != 3])
    began = time.monotonic()
    assert start(lam, corpus, tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - began
    rng = np.random.default_rng(0)
    out, kills, unfinished = tmp_path / "killed", 0, 0
    while kills < 20:
        process = start(lam, corpus, out)
        try:
            process.wait(timeout=rng.uniform(0.5, 1.0) * seconds)  # before that it only imports
        except subprocess.TimeoutExpired:
            process.kill()
            assert process.wait() == -signal.SIGKILL
            kills += 1
            unfinished += 0 < len(list(out.glob("part-*.parquet"))) < len(parts(tmp_path / "whole"))
            continue
        assert parts(out) == parts(tmp_path / "whole")
        for path in out.iterdir():  # finished before its kill: anew
            path.unlink()
    assert start(lam, corpus, out).wait() == 0
    assert parts(out) == parts(tmp_path / "whole")
    assert not list(out.glob("*.tmp"))
    assert unfinished >= 3


def test_columns_are_those_of_the_contract(whole):
    schema = pq.read_schema(whole / "part-000000.parquet")
    assert schema.remove_metadata() == SCHEMA
    assert schema.field("codes").type == pa.list_(pa.int32())
