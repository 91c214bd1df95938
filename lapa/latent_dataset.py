"""Latents beside the frames that they are of, as a PyTorch dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from corpora.clips.corpus import Corpus
from corpora.clips.frames import open_clip_frames
from lapa.latents import Latents

SAME_S = 1e-3
"""A time of the latents and one of the clip within this are of one frame."""


class LatentDataset(Dataset[dict[str, Any]]):
    """One sample a pair of frames, in the order of the latents' files:

    frames: uint8 [2, 3, S, S], RGB, the first and the second; S is `size`, by default the corpus' own
    latent: float32 [D], before quantisation
    codes: int64 [C]; of continuous models C is 0
    t_s, gap_s: float, time of the first frame in its source and between the two, seconds
    frame_index: int, which frame of its source the first is, see `lapa.latents.SCHEMA`
    clip_id, source, group, embodiment, text: str

    Frames are decoded once, into the cache folder (`cache`, default $GIZA_CACHE), and shared by all processes that load;
    latents are held in memory, 4 D bytes a pair. Pairs of clips that do not decode are left out and named in `faults`.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        latents: str | Path | Latents,
        *,
        size: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        """Raises ValueError where the latents are not of this corpus."""
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
        self.latents = latents if isinstance(latents, Latents) else Latents(latents)
        self.latents.check_of(self.corpus)
        self.corpus.expect_clips()
        clips = open_clip_frames(
            self.corpus, size or self.corpus.clips[0].size, cache=None if cache is None else Path(cache)
        )
        self._table, self._clips = clips.table, clips.rows
        self.faults = tuple(f"clip {fault.source}: {fault.reason}" for fault in clips.table.faults)
        sample = self.latents.read(row.clip_id for row in clips.rows)
        place = {row.clip_id: number for number, row in enumerate(clips.rows)}
        self._clip = np.array([place[name] for name in sample.clip_id], np.int64)
        self._frames = np.stack(
            [self._places(clips.starts, clips.t_s, sample.t_s + shift) for shift in (0.0, sample.gap_s)], 1
        )
        kept = clips.table.valid[self._frames, 0].all(1)
        self._clip, self._frames, self._kept = self._clip[kept], self._frames[kept], np.flatnonzero(kept)
        self._t_s, self._gap_s, self._index = sample.t_s[kept], sample.gap_s[kept], sample.frame_index[kept]
        self._latent = torch.from_numpy(np.ascontiguousarray(sample.latent[kept]))
        codes = np.zeros((len(sample), 0), np.int64) if sample.codes is None else sample.codes.astype(np.int64)
        self._codes = torch.from_numpy(codes[kept])

    def _places(self, starts: np.ndarray, times: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
        """[N] rows of the table: of each pair's clip the frame at this time. Raises ValueError where there is none."""
        found = np.empty(len(wanted_s), np.int64)
        for clip in np.unique(self._clip):
            mine, own = np.flatnonzero(self._clip == clip), times[starts[clip] : starts[clip + 1]]
            near = np.abs(own[None] - wanted_s[mine, None]).argmin(1)
            if (np.abs(own[near] - wanted_s[mine]) > SAME_S).any():
                raise ValueError(
                    f"latents {self.latents}: clip {self._clips[clip].clip_id} has no frame at one of their times; they are of "
                    "another version of this corpus: extract them again"
                )
            found[mine] = starts[clip] + near
        return found

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._clips[self._clip[number]]
        images = np.stack([self._table.images[place, 0] for place in self._frames[number]])
        frames: Tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        named = {name: getattr(row, name) for name in ("clip_id", "source", "group", "embodiment", "text")}
        numbers: dict[str, Any] = {"t_s": float(self._t_s[number]), "gap_s": float(self._gap_s[number])}
        numbers["frame_index"] = int(self._index[number])
        return {"frames": frames, "latent": self._latent[number], "codes": self._codes[number], **numbers, **named}
