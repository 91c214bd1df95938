"""Clips as samples of a policy: opened, held out, and one for each label, or without labels for each frame.

Images come from the shared table of `clip_frames`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.frames import ClipFrames, open_clip_frames
from corpora.held_out import hold_out
from corpora.mixture.label_type import Count, Label, PolicyLimits, folder_faults
from corpora.mixture.labels import EmbodimentFacts, Labels, numbered
from corpora.mixture.spec import Data, DatasetSpec, Frames, Numbers, Opening, Origin, Sample, SampleDataset
from corpora.mixture.views import ImageViews, Window
from corpora.store.files import digest_of


@dataclass(frozen=True)
class ClipsAt(Data):
    """Clips: a corpus of `giza ingest`."""

    key: ClassVar[str] = "corpus"
    of_clips: ClassVar[bool] = True

    corpus: Path

    def faults(self) -> list[str]:
        """What is wrong with it, all at once."""
        return folder_faults(self.key, self.corpus, ("manifest.parquet",))

    def count(self, label: Label, embodiment: str, limits: PolicyLimits) -> Count:
        """What there is of it. Raises ValueError where it cannot be read."""
        corpus = Corpus(self.corpus)
        found = Count(
            len(corpus.clips),
            sum(row.frames for row in corpus.clips),
            sum(row.seconds for row in corpus.clips) / 3600,
            tiers=_tiers(corpus),
        )
        if corpus.clips:
            label.count(corpus, found, embodiment, limits)
        else:
            found.faults.append(f"corpus '{self.corpus}': {corpus.survey().nothing_kept}")
        return found

    def open(self, spec: DatasetSpec, opening: Opening) -> tuple[SampleDataset, set[str]]:
        corpus = Corpus(self.corpus)
        spec.warn(Count(len(corpus.clips), tiers=_tiers(corpus)).of_other_tiers(spec.tier))
        frames = open_clip_frames(corpus, opening.image_size, cache=opening.cache, progress=opening.progress)
        spec.warn(frames.table.lacking)
        if not spec.label.acts and opening.window.future_s is None:
            raise ValueError(
                f"label '{spec.label.words[0]}' has nothing to learn without FLARE: give --training.flare, --recipe small_world, or "
                "another label"
            )
        labels = spec.label.read(frames, spec.embodiment, opening.window.horizon)
        samples = ClipSamples(spec, frames, opening.window, labels, opening.stride_s)
        return samples, hold_out(samples.groups, opening.held_out, opening.seed)

    def fingerprint(self, label: Label) -> str:
        """Of the corpus, and of the parts in which its labels lie."""
        return digest_of(Corpus(self.corpus).identity, repr(label.parts_made()))[:16]

    def origin(self) -> Origin:
        """The corpus."""
        return Origin("clips", self.corpus.expanduser().resolve().name, Corpus(self.corpus).identity)


def _tiers(corpus: Corpus) -> dict[str, int]:
    return dict(Counter(row.tier for row in corpus.clips))


class ClipSamples:
    """Clips: a sample for each label, its steps those of a chunk; without labels one for each frame that has a future.

    `stride_s`: without labels, frames of a clip begin samples at least this far apart; 0: every frame. Beyond a label's
    steps, its last is repeated and masked. Raises ValueError for a stride below 0, where a label has more steps than
    the chunk, and where no sample is left.
    """

    def __init__(
        self, spec: DatasetSpec, clips: ClipFrames, window: Window, labels: Labels | None = None, stride_s: float = 0.0
    ) -> None:
        if not stride_s >= 0:
            raise ValueError(f"stride_s {stride_s}: must be 0 (every frame) or more seconds")
        self.spec, self.cameras, self.horizon = spec, clips.table.cameras, window.horizon
        self._clips, self._labels, self.idle_rows = clips, labels, 0
        self._before: NDArray[np.int64] | None = None
        self.texts = frozenset(row.text for row in clips.rows)
        self._views = ImageViews(clips.table, clips.t_s, window)
        if labels is None:
            self._rows, self._runs, self._futures = self._seen(stride_s)
            if (order := spec.label.order(self._runs, clips)) is not None:
                self._futures, self._before = self._futures[order], self._rows[order]
            lacking = f"no clip shows anything {window.future_s} s after a frame"
        else:
            steps = labels.values.shape[1]
            if steps > window.horizon:
                raise ValueError(
                    f"dataset '{spec.name}': labels of {steps} tokens do not fit a horizon of {window.horizon} steps; "
                    "choose a longer horizon, or a model of fewer"
                )
            self._rows, self._runs = labels.rows, labels.runs
            self._futures = np.full(len(self._rows), -1)
            for run in np.unique(self._runs).tolist():
                self._futures[self._runs == run] = self._views.futures(
                    self._rows[self._runs == run], *self._bounds(run)
                )
            lacking = "the labels are of none of these clips"
        if not len(self._rows):
            raise ValueError(f"dataset '{spec.name}' has no sample: {lacking}")
        self.groups = [clips.rows[run].group for run in self._runs.tolist()]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        run = int(self._runs[index])
        images, mask = self._views.around(int(self._rows[index]), *self._bounds(run))
        action, action_mask, known, from_origin = None, np.zeros(self.horizon, np.bool_), None, False
        if self._labels is not None:
            known, from_origin = self._labels.known, self._labels.facts.from_origin
            label = self._labels.values[index]
            steps = np.minimum(np.arange(self.horizon), len(label) - 1)
            action, known = label[steps], known if known is None or known.ndim == 1 else known[index, steps]
            action_mask[: len(label)] = True
        future = self._views.shown(int(self._futures[index]))
        before = None if self._before is None else self._views.shown(int(self._before[index]))
        text = self._clips.rows[run].text
        return Sample(images, mask, text, None, action, action_mask, future, known, before, from_origin)

    def numbers(self, indices: Sequence[int]) -> Numbers:
        """The labels of these samples. Raises ValueError where there are none."""
        chunks = self._chunks(indices)
        return Numbers(None, chunks, np.ones(chunks.shape[:2], np.bool_))

    def frames(self, indices: Sequence[int]) -> Frames:
        """Each step of each of these labels. Raises ValueError where there are none."""
        chunks = self._chunks(indices)
        return Frames(None, chunks.reshape(-1, chunks.shape[2]), None)

    def embodiment(self) -> EmbodimentFacts | None:
        """As the labels say; None without them."""
        if self._labels is None:
            return None
        facts = self._labels.facts
        names, cameras = facts.action_names or numbered("action", self._labels.values.shape[2]), facts.cameras
        cameras, view = cameras[: len(self.cameras)], self._clips.view
        views = {} if view is None else dict.fromkeys(cameras, view)
        return replace(facts, cameras=cameras, action_names=names, squared_by=self._clips.squared_by, views=views)

    def named(self, groups: Iterable[str]) -> tuple[str, ...]:
        """They name themselves."""
        return tuple(sorted(groups))

    def at_step(self, step_s: float) -> ClipSamples:
        """Labels have the steps that they were made with: raises ValueError."""
        raise ValueError(f"its labels are not {step_s:.4f} s apart: make them again for a robot of that rate")

    def _chunks(self, indices: Sequence[int]) -> NDArray[np.float32]:
        if self._labels is None:
            raise ValueError(f"dataset '{self.spec.name}' has no actions")
        return self._labels.values[np.asarray(indices, np.int64)]

    def _bounds(self, run: int) -> tuple[int, int]:
        return int(self._clips.starts[run]), int(self._clips.starts[run + 1])

    def _seen(self, stride_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rows, clips and futures of the frames that have a future."""
        rows, runs, futures = [], [], []
        for run in range(len(self._clips.rows)):
            start, stop = self._bounds(run)
            found = start + _spaced(self._clips.t_s[start:stop], stride_s)
            found = found[self._clips.table.valid[found].any(1)]
            future = self._views.futures(found, start, stop)
            rows.append(found[future >= 0])
            futures.append(future[future >= 0])
            runs.append(np.full(len(rows[-1]), run))
        return np.concatenate(rows), np.concatenate(runs), np.concatenate(futures)


def _spaced(t_s: NDArray[np.float64], stride_s: float) -> NDArray[np.int64]:
    """Frames at least `stride_s` apart."""
    kept: list[int] = []
    for index, time in enumerate(t_s.tolist()):
        if not kept or time - t_s[kept[-1]] >= stride_s - 1e-6:
            kept.append(index)
    return np.asarray(kept, np.int64)
