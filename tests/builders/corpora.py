"""A small ingested corpus written straight to disk: uneven times, a moving camera, a clip shorter than any gap."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from corpora.clips.corpus import MANIFEST, SHARDS, SUMMARY
from corpora.clips.manifest import ClipRow, ManifestWriter
from corpora.clips.shards import ShardWriter
from corpora.video.encode import encode_clip, pack_arrays
from tests.builders.cameras import measure_camera_motion
from tests.builders.videos import textured

SIZE = 48


def block_positions(seed: int, count: int) -> np.ndarray:
    """float64 [count, 2]: where the block of `clip_frames` is, (y, x) of its corner in pixels."""
    rng = np.random.default_rng(seed)
    position, positions = rng.uniform(5, SIZE - 15, 2), []
    for _ in range(count):
        position = np.clip(position + rng.uniform(-3, 3, 2), 0, SIZE - 10)
        positions.append(position)
    return np.stack(positions)


def clip_frames(seed: int, count: int, *, moving: bool) -> np.ndarray:
    """uint8 [count, SIZE, SIZE, 3]: a block that wanders over a texture, seen by a camera that stands or slides."""
    world = textured(3 * SIZE, 2 * SIZE, seed)
    frames = []
    for index, (y, x) in enumerate(block_positions(seed, count).astype(int)):
        left = index if moving else 0
        image = world[10 : 10 + SIZE, left : left + SIZE].copy()
        image[y : y + 10, x : x + 10] = (230, 200, 60)
        frames.append(image)
    return np.stack(frames)


def clip_members(
    frames: np.ndarray,
    t_s: np.ndarray,
    camera: dict[str, np.ndarray],
    *,
    crf: int,
    truth: dict[str, np.ndarray] | None = None,
) -> dict[str, bytes]:
    """What a shard holds of a clip, by suffix; `truth`: of every frame."""
    members = {
        "mp4": encode_clip(list(frames), t_s - t_s[0], crf=crf, gop=8),
        "json": json.dumps({"t_s": t_s.tolist()}).encode(),
        "camera.npz": pack_arrays(camera),
    }
    if truth is not None:
        known = {name: values.astype(np.float32) for name, values in truth.items()}
        members["truth.npz"] = pack_arrays({"t_s": t_s, **known})
    return members


def sliding_camera(pairs: int, gap: int = 0, slide: float = 0.0, inlier_ratio: float = 1.0) -> dict[str, np.ndarray]:
    """The known motion of a camera, between the frames i and i + `gap` of the first `pairs`: it slides by `slide` of half its
    image's width."""
    first = np.arange(pairs, dtype=np.int32)
    h = np.tile(np.eye(3, dtype=np.float32), (pairs, 1, 1))
    h[:, 0, 2] = -slide
    ratio, tracks = np.full(pairs, inlier_ratio, np.float32), np.full(pairs, 50, np.int32)
    return {"first": first, "second": first + np.int32(gap), "h": h, "inlier_ratio": ratio, "tracks": tracks}


def store_clips(
    root: Path,
    clips: Iterable[tuple[ClipRow, dict[str, bytes]]],
    *,
    shard_mb: float = 1.0,
    dropped: Sequence[ClipRow] = (),
    **summary: object,
) -> Path:
    """A corpus of these clips, and of rows that were `dropped`; `summary`: what its ingest.json says."""
    root.mkdir(parents=True)
    shards = ShardWriter(root / SHARDS, shard_mb)
    with ManifestWriter(root / MANIFEST) as manifest:
        for row, members in clips:
            shard, index = shards.place(members)
            shards.write(row.clip_id, members)
            manifest.append(replace(row, shard=shard, index_in_shard=index))
        for row in dropped:
            manifest.append(row)
        shards.close()
    (root / SUMMARY).write_text(json.dumps(summary), "utf-8")
    return root


@functools.cache
def _clip(seed: int, truth: bool, black: bool) -> tuple[ClipRow, dict[str, bytes]]:
    """What `write_corpus` writes of one clip: most corpora have the same ones, which are encoded and measured once."""
    count = 4 if seed == 3 else 16 + seed % 5
    frames = clip_frames(seed, count, moving=seed % 2 == 1)
    if black:
        frames[:] = 0
    steps = np.full(count - 1, 0.1)
    if seed % 4 == 0:
        steps = np.random.default_rng(seed).uniform(0.05, 0.15, count - 1)
    t_s = 1.5 * seed + np.concatenate([[0.0], np.cumsum(steps)])
    row = ClipRow(
        f"{seed:016x}", f"video{seed}.mp4", f"video{seed}", start_s=float(t_s[0]), end_s=float(t_s[-1]) + 0.1,
        frames=count, width=SIZE, height=SIZE, size=SIZE, kept=True,
    )  # fmt: skip
    pairs = [(i, i + 5) for i in range(count - 5) if i % 3]  # ingest's own pairs; the others are measured later
    motions = [measure_camera_motion(frames[i], frames[j]) for i, j in pairs]
    camera = {
        "first": np.array([i for i, _ in pairs], np.int32),
        "second": np.array([j for _, j in pairs], np.int32),
        "h": np.array([motion.h for motion in motions], np.float32).reshape(-1, 3, 3),
        "inlier_ratio": np.array([motion.inlier_ratio for motion in motions], np.float32),
        "tracks": np.array([motion.tracks for motion in motions], np.int32),
    }
    state = np.pad(block_positions(seed, count), ((0, 0), (0, 1)))
    return row, clip_members(frames, t_s, camera, crf=12, truth={"observation.state": state} if truth else None)


def write_corpus(
    root: Path,
    seeds: Sequence[int],
    *,
    shard_mb: float = 0.05,
    truth: bool = False,
    black: Collection[int] = (),
    embodiment: str = "hand",
) -> Path:
    """A corpus of one clip for each seed, in that order. Seed 3 is shorter than 0.5 s, seeds divisible by 4 have uneven
    times, odd ones a moving camera. `truth`: observation.state [T, 3] holds where the block is, and 0; `black`: seeds whose
    clips show nothing at all."""
    made = (_clip(seed, truth, seed in black) for seed in seeds)
    clips = ((replace(row, embodiment=embodiment), members) for row, members in made)
    summary: dict[str, object] = {"truth_features": {"observation.state": 3} if truth else {}}
    if not seeds:
        reasons = {"static": {"count": 6, "hours": 0.1}}
        summary |= {"sources": 6, "reasons": reasons, "tiers": {}, "embodiments": {}}
    return store_clips(root, clips, shard_mb=shard_mb, **summary)


def corpus_files(root: Path) -> dict[str, bytes]:
    """Every file of a corpus but the one that tells how long it took."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "timing.json")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
