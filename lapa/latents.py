"""Latents on disk: what `giza extract` writes, and how it is read again.

latents = Latents("latents")
of_clip = latents.read([clip.row.clip_id])     # codes, latent, t_s ...
sample = latents.sample(10_000, seed=0)        # the same at every call, whole clips first
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import (
    Part,
    PartKey,
    PartSummary,
    SkippedClip,
    list_column,
    part_paths,
    read_footer,
    read_record,
    required,
    write_part,
)
from corpora.episodes.columns import column_array
from corpora.store.remote import at_hand
from lapa.pairs.batch import PairBatch

SUMMARY = "_extract.json"
FORMAT = 3
"""Raised when the same settings would give other rows."""
TRUTH_SHARE = 0.75
"""Pairs with known actions may take this share of the sample where there are others; the probe lives on them."""
THINNING = 4
"""A clip's pairs overlap in time: at most so many times more are decoded than are kept."""


_TEXT, _LIST = pa.string(), pa.list_(pa.float32())
_OF_CLIP = ("source", "group", "clip_id", "tier", "embodiment", "text")
_NUMBERS = ("frame_index", "t_s", "gap_s", "motion", "camera_inlier_ratio")
SCHEMA = required(
    **dict.fromkeys(_OF_CLIP, _TEXT),
    frame_index=pa.int64(),
    **dict.fromkeys(("t_s", "gap_s"), pa.float64()),
    codes=pa.list_(pa.int32()),
    **dict.fromkeys(("latent", "quantized"), _LIST),
    motion=pa.float32(),
    camera=_LIST,
    camera_inlier_ratio=pa.float32(),
    model_hash=_TEXT,
)
"""One row per pair of frames; none is null.

source               video: the path below what was ingested, "<dataset>/episode_000003/<camera>" or "<tar>/<key>"
group                unit of hold-out: one source video, or one episode with all its cameras
clip_id              of the corpus: 16 hex digits
tier                 human, synthetic, neural or robot
embodiment           the body that acts; "" where it is not said
text                 the clip's instruction; "" where it has none
frame_index          first frame of the pair in its source: counted as shown, from 0; of an episode its row; -1 where it cannot be
                     known (`Clip.frame_index`)
t_s                  time of the first frame in its source, seconds
gap_s                time between the two frames, seconds
codes                [C], empty for continuous models
latent               [D], before quantisation, flattened
quantized            [D], the codes' vectors; the latent for continuous models
motion               mean absolute difference of luma between the frames, 0-255
camera               [9], homography from first to second, row-major, normalised coordinates
camera_inlier_ratio  0 where the camera's motion is unknown
model_hash           of the model that made the row
"""


@dataclass(frozen=True, kw_only=True)
class LatentKey(PartKey):
    """What decides the rows of a folder of latents."""

    format: int = FORMAT
    gap_s: float
    stride_s: float
    precision: str = "float32"
    """Of the network."""


@dataclass(frozen=True)
class LatentSample:
    """N pairs, in the order of the Parquet parts."""

    clip_id: NDArray[np.str_]
    group: NDArray[np.str_]
    tier: NDArray[np.str_]
    embodiment: NDArray[np.str_]
    """The tier where no embodiment is named."""
    text: NDArray[np.str_]
    """The clip's instruction."""
    frame_index: NDArray[np.int64]
    """Of the first frame in its source, see `SCHEMA`."""
    t_s: NDArray[np.float64]
    """Source time of the first frame."""
    gap_s: NDArray[np.float64]
    codes: NDArray[np.int32] | None
    """[N, codes]; None for continuous models."""
    latent: NDArray[np.float32]
    """[N, D] before quantisation."""
    quantized: NDArray[np.float32]
    motion: NDArray[np.float32]
    """Mean absolute difference of luma, 0-255."""
    camera: NDArray[np.float64]
    """[N, 3, 3] homography from first to second, normalised coordinates."""
    camera_inlier_ratio: NDArray[np.float32]
    """0 where the camera's motion is unknown."""
    pairs: int
    """Pairs that the folder holds, the sample's among them."""
    model_hashes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.t_s)


def write_latent_part(
    out: Path,
    part: Part,
    key: LatentKey,
    clips: Sequence[tuple[ClipRow, PairBatch]],
    latents: dict[str, NDArray[Any]],
    skipped: Sequence[SkippedClip],
) -> PartSummary:
    """Writes `part`: rows of `SCHEMA`, one a pair. `latents`: codes, latent, quantized, [pairs of all clips, D] each."""
    count = sum(len(pairs) for _, pairs in clips)
    named = {name: [getattr(row, name) for row, pairs in clips for _ in range(len(pairs))] for name in _OF_CLIP}

    def column(name: str, dtype: type) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(getattr(pairs, name).numpy().ravel() for _, pairs in clips)])

    table = pa.table(
        {
            **named,
            "frame_index": column("frame_index", np.int64),
            "t_s": column("t_s", np.float64),
            "gap_s": column("gap_s", np.float64),
            **{name: list_column(values) for name, values in latents.items()},
            "motion": column("motion", np.float32),
            "camera": list_column(column("camera", np.float32).reshape(count, 9)),
            "camera_inlier_ratio": column("camera_inlier_ratio", np.float32),
            "model_hash": [key.model_hash] * count,
        },
        schema=SCHEMA,
    )
    return write_part(out, part, key, table, skipped)


class Latents:
    """A folder of latents; or several, of one model and gap, read as one."""

    def __init__(self, folders: str | Path | Sequence[str | Path]) -> None:
        """Raises ValueError where a folder holds none, and where those of several do not go together."""
        several = [folders] if isinstance(folders, str | Path) else list(folders)
        if not several:
            raise ValueError("no folder of latents is named: give at least one")
        self.keys: dict[Path, LatentKey] = {}
        """Folder -> what decided its rows."""
        self.parts: list[Path] = []
        for folder in (at_hand(each).expanduser() for each in several):
            parts = part_paths(folder)
            if not parts:
                raise ValueError(f"'{folder}' holds no latents: make them with giza extract --out {folder}")
            key = read_footer(parts[0]).key(LatentKey, "latents")
            if key.format != FORMAT:
                raise ValueError(
                    f"latents '{folder}' are of format {key.format}, this version of giza reads {FORMAT}: make them again with giza "
                    "extract (latents from elsewhere: giza report) and another --out"
                )
            same = next((other for other, its in self.keys.items() if its.corpus == key.corpus), None)
            if same is not None:
                raise ValueError(f"'{same}' and '{folder}' are latents of the same corpus: give one of them")
            self.parts += parts
            self.keys[folder] = key
        if len({(key.model_hash, key.gap_s, key.stride_s) for key in self.keys.values()}) > 1:
            told = ", ".join(
                f"'{folder}' {key.model_hash} {key.gap_s:g} {key.stride_s:g}" for folder, key in self.keys.items()
            )
            raise ValueError(
                f"these latents are not of one model, gap and stride ({told}): extract each corpus alike, by one model"
            )

    @property
    def folder(self) -> Path:
        """Raises ValueError where these are several."""
        if len(self.keys) > 1:
            raise ValueError(f"latents {self} lie in several folders: open one of them, or see Latents.keys")
        return next(iter(self.keys))

    @property
    def key(self) -> LatentKey:
        """What decided the rows. Raises ValueError where these are several."""
        return self.keys[self.folder]

    @property
    def summary(self) -> dict[str, Any]:
        """The record _extract.json; {} where the extraction has not finished. Raises ValueError where these are several."""
        return read_record(self.folder, SUMMARY) or {}

    @property
    def extracted(self) -> list[str]:
        """Whose model made them and what it was shown, in words; one sentence where all folders say the same."""
        found = [(read_record(folder, SUMMARY) or {}, key.precision) for folder, key in self.keys.items()]
        said = [
            f"By {record['made_by']}'s model in {precision}, which is shown {record['preprocessing']}."
            for record, precision in found
            if "preprocessing" in record
        ]
        return list(dict.fromkeys(said))

    def __str__(self) -> str:
        return ", ".join(f"'{folder}'" for folder in self.keys)

    def check_of(self, corpus: Corpus) -> None:
        """Raises ValueError unless each is of one of the corpora that were opened as `corpus`, and each of these has its own."""
        given = {part.identity: part.folder for part in corpus.parts}
        for folder, key in self.keys.items():
            if key.corpus not in given:
                raise ValueError(
                    f"latents '{folder}' are of another corpus than {corpus}: give the corpus that they were extracted from"
                )
        for identity, folder in given.items():
            if identity not in {key.corpus for key in self.keys.values()}:
                raise ValueError(f"corpus '{folder}' has none of the latents {self}: give one folder for each corpus")

    def __len__(self) -> int:
        """Pairs."""
        return sum(pq.read_metadata(path).num_rows for path in self.parts)

    def codes(self) -> Iterator[NDArray[np.int32]]:
        """Codes [rows, codes] of all pairs, a batch at a time; [rows, 0] for continuous models."""
        for batch in self._columns(["codes"]):
            yield column_array(pa.chunked_array([batch.column("codes")]), np.int32)

    def read(self, clip_ids: Iterable[str]) -> LatentSample:
        """All pairs of these clips. Raises ValueError where there are none."""
        wanted = set(clip_ids)
        names = [name for batch in self._columns(["clip_id"]) for name in batch.column("clip_id").to_pylist()]
        chosen = np.array([name in wanted for name in names], bool)
        if not chosen.any():
            raise ValueError(f"{self} holds no latents of the {len(wanted)} clips asked for")
        return self._rows(chosen)

    def sample(
        self,
        max_pairs: int,
        seed: int = 0,
        *,
        clips: Iterable[str] | None = None,
        first: Iterable[str] = (),
        gap_s: float | None = None,
        same_as: Sequence[Latents] = (),
    ) -> LatentSample:
        """At most `max_pairs` pairs of `clips` (ids; default: all), those in `first` first in line.

        `gap_s`: only pairs within a fifth of it; `same_as`: only pairs that all of these hold as well.
        The same files and seed give the same sample. Raises ValueError where no
        pair is left.
        """
        number_of: dict[str, int] = {}
        clip_parts: list[NDArray[np.int64]] = []
        gap_parts: list[NDArray[np.float64]] = []
        for batch in self._columns(["clip_id", "gap_s"]):
            encoded = batch.column("clip_id").dictionary_encode()
            numbers = [number_of.setdefault(name, len(number_of)) for name in encoded.dictionary.to_pylist()]
            clip_parts.append(np.array(numbers, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)])
            gap_parts.append(batch.column("gap_s").to_numpy(zero_copy_only=False))
        names = list(number_of)
        clip_of = np.concatenate([np.zeros(0, np.int64), *clip_parts])
        gaps = np.concatenate([np.zeros(0), *gap_parts])
        known, truth = None if clips is None else set(clips), set(first)
        usable = np.array([known is None or name in known for name in names], bool)[clip_of]
        if gap_s is not None:
            usable &= np.abs(gaps - gap_s) <= 0.2 * gap_s
        for others in same_as:
            usable &= np.isin(self._pairs(), others._pairs())
        if not usable.any():
            wanted = "" if gap_s is None else f" with a gap near {gap_s:g} s"
            wanted += "".join(f" that {others} hold as well" for others in same_as)
            raise ValueError(
                f"{self} holds {len(clip_of)} pairs, none{wanted} of a clip of this corpus: give the corpus that these latents were "
                "extracted from"
            )
        in_front = np.array([name in truth for name in names], bool)[clip_of]
        return self._rows(choose_rows(clip_of, names, usable, in_front, max_pairs, seed))

    def _pairs(self) -> NDArray[np.uint64]:
        """[N]: a hash of which pair each row is of: clip, time and gap to the tenth of a millisecond."""
        found = []
        for batch in self._columns(["clip_id", "t_s", "gap_s"]):
            rows = zip(*(batch.column(name).to_pylist() for name in ("clip_id", "t_s", "gap_s")), strict=True)
            keys = [f"{clip} {round(t_s * 1e4)} {round(gap_s * 1e4)}" for clip, t_s, gap_s in rows]
            digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
            found.append(np.frombuffer(digests, np.uint64))
        return np.concatenate([np.zeros(0, np.uint64), *found])

    def _columns(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """All rows, a batch at a time."""
        for path in self.parts:
            with pq.ParquetFile(path) as file:
                missing = set(columns) - set(file.schema_arrow.names)
                if missing:
                    raise ValueError(f"{path} lacks {sorted(missing)}: extract the latents again with giza extract")
                yield from file.iter_batches(batch_size=8192, columns=columns)

    def _rows(self, chosen: NDArray[np.bool_]) -> LatentSample:
        """The rows of a mask over all of them."""
        taken: list[pa.RecordBatch] = []
        start = 0
        for batch in self._columns([name for name in SCHEMA.names if name != "source"]):
            mask = chosen[start : start + len(batch)]
            start += len(batch)
            if mask.any():
                taken.append(batch.filter(pa.array(mask)))
        table = pa.Table.from_batches(taken).combine_chunks()

        def text(name: str) -> NDArray[Any]:
            return np.array(table.column(name).to_pylist(), np.str_)

        def lists(name: str, dtype: Any) -> NDArray[Any]:
            return column_array(table.column(name), dtype)

        codes = lists("codes", np.int32)
        return LatentSample(
            **{name: text(name) for name in ("clip_id", "group", "tier", "text")},
            embodiment=np.where(text("embodiment") == "", text("tier"), text("embodiment")),
            codes=codes if codes.shape[1] else None,
            **{name: lists(name, np.float32) for name in ("latent", "quantized")},
            camera=lists("camera", np.float64).reshape(-1, 3, 3),
            **{name: table[name].to_numpy() for name in _NUMBERS},
            pairs=len(chosen),
            model_hashes=tuple(sorted(set(table.column("model_hash").to_pylist()))),
        )


def choose_rows(
    clip_of: NDArray[np.int64],
    names: list[str],
    usable: NDArray[np.bool_],
    has_truth: NDArray[np.bool_],
    max_pairs: int,
    seed: int,
) -> NDArray[np.bool_]:
    """Mask [rows] of the sample: whole clips in the order of a hash of their names, then thinned evenly."""
    truth_rows, other_rows = usable & has_truth, usable & ~has_truth
    truth_quota = min(
        int(truth_rows.sum()), max_pairs - min(int(other_rows.sum()), round((1 - TRUTH_SHARE) * max_pairs))
    )
    rank = np.argsort(
        np.argsort([hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).hexdigest() for name in names])
    )
    chosen = np.zeros(len(clip_of), bool)
    for rows, quota in ((truth_rows, truth_quota), (other_rows, max_pairs - truth_quota)):
        candidates = np.flatnonzero(rows)
        if len(candidates) == 0 or quota <= 0:
            continue
        order = candidates[np.argsort(rank[clip_of[candidates]], kind="stable")]
        order = order[: THINNING * quota]
        if len(order) > quota:
            order = order[np.linspace(0, len(order) - 1, quota).round().astype(np.int64)]
        chosen[order] = True
    return chosen


def rows_by_clip(sample: LatentSample, rows: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
    """clip_id -> those of `rows` that are pairs of the clip."""
    result: dict[str, list[int]] = {}
    for row in rows.tolist():
        result.setdefault(str(sample.clip_id[row]), []).append(row)
    return {clip: np.array(found, np.int64) for clip, found in result.items()}
