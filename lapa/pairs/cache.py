"""Decoded frames and pairs of a corpus in memory-mapped files: decoded once, tracked once, flow computed once.

A corpus that does not fit the disk budget is streamed instead (lapa/pair_batches.py); both give the same records.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Clip, Corpus
from corpora.clips.manifest import ClipRow
from lapa.model.config import LamConfig
from lapa.pairs.config import LabelSpec
from lapa.pairs.pair import STABILISED, clip_pairs, pair_input, resize_frames, truth_change

Featurise = Callable[[NDArray[np.uint8]], NDArray[np.float16]]
"""uint8 frames [T, S, S, 3] -> features float16 [T, N, F] of a frozen model."""


@dataclass(frozen=True)
class PairTable:
    """All pairs of a set of clips, over all gaps."""

    first: NDArray[np.int64]
    """[P], rows of `FrameStore.frames`."""
    second: NDArray[np.int64]
    """[P]."""
    clip: NDArray[np.int32]
    """[P], index into `FrameStore.rows`."""
    gap_s: NDArray[np.float32]
    """[P], the gap asked for."""
    h: NDArray[np.float32]
    """[P, 3, 3], camera motion."""
    label: NDArray[np.float32]
    """[P, A], change of the known feature over the gap; NaN where unknown or withheld. A may be 0."""


class FrameStore:
    """Frames [F, S, S, 3] uint8, flow [P, 2, S/4, S/4] float16 (or None), features [F, N, D] float16 (or None), pairs."""

    def __init__(self, folder: Path, rows: list[ClipRow]) -> None:
        meta = json.loads((folder / "store.json").read_text("utf-8"))
        self.rows = rows
        with np.load(folder / "pairs.npz") as file:
            self.pairs = PairTable(**{name: file[name] for name in PairTable.__dataclass_fields__})
        self.frames: NDArray[np.uint8] = self._map(folder / "frames.u8", np.uint8, meta["frames"])
        self.flow = self._map(folder / "flow.f16", np.float16, meta["flow"]) if meta["flow"] else None
        self.features = self._map(folder / "features.f16", np.float16, meta["features"]) if meta["features"] else None

    @staticmethod
    def _map(path: Path, dtype: Any, shape: list[int]) -> NDArray[Any]:
        return np.memmap(path, dtype, "r", shape=tuple(shape)) if shape[0] else np.zeros(shape, dtype)


def clip_records(
    clip: Clip, config: LamConfig, labels: LabelSpec, *, labelled: bool
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """Frames [T, S, S, 3] of a clip at the model's size, and its pairs over all gaps: arrays first, second, gap_s, h,
    label as in `PairTable`, with indices within the clip."""
    frames = resize_frames(clip.frames, config.pair.image_size)
    parts: list[dict[str, NDArray[Any]]] = []
    for gap in config.pair.gap_s:
        pairs = clip_pairs(clip, gap)
        count = len(pairs.first)
        label = np.full((count, config.label_dim), np.nan, np.float32)
        if labelled and clip.truth is not None and count and config.label_dim:
            change = truth_change(clip.truth, labels.feature, clip.t_s[pairs.first], clip.t_s[pairs.second])
            label = (change[:, list(labels.dims)] if labels.dims else change).astype(np.float32)
        parts.append(
            {
                "first": pairs.first,
                "second": pairs.second,
                "gap_s": np.full(count, gap, np.float32),
                "h": pairs.h,
                "label": label,
            }
        )
    return frames, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def store_bytes(rows: Iterable[ClipRow], config: LamConfig) -> int:
    """Disk that a store of these clips takes."""
    per_frame = 3 * config.pair.image_size**2
    if config.pair.flow != "none":
        per_frame += len(config.pair.gap_s) * 2 * 2 * (config.pair.image_size // 4) ** 2
    if not config.pixels:
        per_frame += 2 * config.feature_patches * config.feature_dim
    return sum(row.frames for row in rows) * per_frame


def open_store(
    corpus: Corpus,
    rows: list[ClipRow],
    config: LamConfig,
    labels: LabelSpec,
    labelled: set[str],
    *,
    cache: Path,
    featurise: Featurise | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FrameStore:
    """The store of `rows`, built (under a temporary name) where `cache` has none for these clips and this model's inputs.

    `labelled`: ids of the clips whose labels may be seen; `featurise`: the frozen model of a feature target.
    """
    stabilised = STABILISED if config.pair.camera_compensation else 0
    identity = (
        dataclasses.replace(config.pair, extract_gap_s=1.0),
        stabilised,
        config.target,
        config.label_dim,
        labels,
        sorted(labelled),
        [row.clip_id for row in rows],
        corpus.identity,
    )
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    folder = cache / f"frames-{config.pair.image_size}px-{name}"
    if not folder.is_dir():
        partial = cache / f".partial-{name}-{os.getpid()}"
        partial.mkdir(parents=True)
        try:
            _build(partial, corpus, rows, config, labels, labelled, featurise, progress)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return FrameStore(folder, rows)


def _build(
    folder: Path,
    corpus: Corpus,
    rows: list[ClipRow],
    config: LamConfig,
    labels: LabelSpec,
    labelled: set[str],
    featurise: Featurise | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    index = {row.clip_id: i for i, row in enumerate(rows)}
    parts: list[dict[str, NDArray[Any]]] = []
    frame_count = flow_count = done = 0
    feature_shape: list[int] = []
    with (
        open(folder / "frames.u8", "wb") as frames_file,
        open(folder / "flow.f16", "wb") as flow_file,
        open(folder / "features.f16", "wb") as features_file,
    ):
        for clip in corpus.read_clips(rows):
            frames, pairs = clip_records(clip, config, labels, labelled=clip.row.clip_id in labelled)
            frames_file.write(frames.tobytes())
            for i, j, h in zip(pairs["first"], pairs["second"], pairs["h"], strict=True):
                flow = pair_input(config, frames[i], frames[j], h, training=True).flow
                if flow is None:
                    break
                flow_file.write(flow.astype(np.float16).tobytes())
                flow_count += 1
            if featurise is not None:
                features = featurise(frames)
                features_file.write(features.tobytes())
                feature_shape = list(features.shape[1:])
            pairs["first"] += frame_count
            pairs["second"] += frame_count
            parts.append(pairs | {"clip": np.full(len(pairs["first"]), index[clip.row.clip_id], np.int32)})
            frame_count += len(frames)
            done += 1
            if progress is not None:
                progress(done, len(rows))
    table = {name: np.concatenate([part[name] for part in parts]) for name in PairTable.__dataclass_fields__}
    np.savez(folder / "pairs.npz", **table)  # type: ignore[arg-type]
    side = config.pair.image_size // 4
    meta = {
        "frames": [frame_count, config.pair.image_size, config.pair.image_size, 3],
        "flow": [flow_count, 2, side, side] if flow_count else None,
        "features": [frame_count, *feature_shape] if featurise is not None else None,
    }
    (folder / "store.json").write_text(json.dumps(meta), "utf-8")
