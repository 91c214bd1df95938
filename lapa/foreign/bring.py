"""Latents from elsewhere, brought to the form that giza's own have: a folder of Parquet parts, which reports and mixtures read.

    latents = bring_in("their_latents.npz", corpora.Corpus("corpus"), out="latents")

The rows are held in memory, all of them; the clips are decoded once, for how the camera and the picture moved.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import SkippedClip, plan_parts, read_record
from corpora.store.decode import decode
from corpora.store.files import UNFINISHED, write_json
from lapa.foreign.facts import REMEDIES, ForeignFacts, faults_of
from lapa.foreign.formats import Format, choose_format, fingerprint
from lapa.foreign.own import is_own
from lapa.foreign.place import NO_VIDEO, Placed, place_rows
from lapa.foreign.row import Bad, Row, Vector
from lapa.foreign.settings import ForeignSettings
from lapa.latents import SUMMARY, LatentKey, Latents, write_latent_part
from lapa.pairs.batch import PairBatch
from lapa.pairs.config import PairConfig
from lapa.pairs.reader import PairReader

FOREIGN = "foreign"
"""Key of the summary that holds `ForeignFacts`."""
MAX_ONE_HOT = 4096
"""More numbers than this no linear read-out is fitted from in sensible time."""
PART_FRAMES = 8192
Progress = Callable[[str, int, int], None]
"""Called with (what, done, of how many)."""


def foreign_facts(latents: Latents) -> ForeignFacts | None:
    """None of latents that giza extracted."""
    found = [read_record(folder, SUMMARY) or {} for folder in latents.keys]
    record = next((one[FOREIGN] for one in found if FOREIGN in one), None)
    return None if record is None else decode(ForeignFacts, record, what=f"{latents} {SUMMARY}")


def bring_in(
    path: str | Path,
    corpus: Corpus,
    out: str | Path,
    settings: ForeignSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Latents:
    """Writes the rows of `path` that are pairs of `corpus` to `out`, and which were not, and why, beside them; where `out` holds
    just these, it is left as it is.

    Raises ValueError where it is of no format that is known, where none of its rows is a pair of the corpus, and where `out` holds
    something else.
    """
    source, out, settings = Path(path).expanduser(), Path(out).expanduser(), settings or ForeignSettings()
    name, known = choose_format(source, settings)
    if len(corpus.parts) > 1:
        raise ValueError(f"latents '{path}' of several corpora ({corpus}): report on one corpus after the other")
    made_by = fingerprint(source, settings)
    if out.exists():
        there = Latents(out) if is_own(out) else None
        if there is not None and (there.key.model_hash, there.key.corpus) == (made_by, corpus.identity):
            return there
        raise ValueError(f"'{out}' holds something else: choose another folder for these latents, or remove it")
    rows, bad = [], []
    for row in known.rows(source, settings):
        if isinstance(row, Bad):
            bad.append(row)
        else:
            rows.append(row)
    count = len(rows) + len(bad)
    rows, odd = _sound(rows, settings.codebook_size)
    placed, lost = place_rows(corpus, rows)
    bad += [*odd, *lost]
    if not placed:
        raise ValueError(_nothing(source, count, bad, corpus))
    used = [rows[k] for found in placed.values() for k in found.rows]
    table = _Columns.of(used, known, settings)
    key = LatentKey(
        model_hash=made_by,
        corpus=corpus.identity,
        part_frames=PART_FRAMES,
        gap_s=float(np.median([row.gap_s for row in used])),
        stride_s=0.0,
    )
    unfinished = out.with_name(out.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    pairs = _write(corpus, rows, placed, table, key, unfinished, bad, progress or (lambda what, done, total: None))
    if not pairs:
        raise ValueError(_nothing(source, count, bad, corpus))
    facts = ForeignFacts(
        str(path), name, count, pairs, faults_of(bad), table.one_hot, table.codebook_size, table.codebook_told
    )
    write_json(unfinished / SUMMARY, {FOREIGN: dataclasses.asdict(facts), "pairs": pairs})
    unfinished.rename(out)
    return Latents(out)


def _sound(rows: list[Row], codebook_size: int) -> tuple[list[Row], list[Bad]]:
    """The rows of the shape that most have, with codes of the codebook (0: any), and the others."""

    def shape(row: Row) -> tuple[int, ...]:
        return tuple(0 if part is None else len(part) for part in (row.vector, row.codes, row.quantized))

    common = Counter(map(shape, rows)).most_common(1)
    kept, bad = [], []
    for row in rows:
        if codebook_size and row.codes is not None and row.codes.max() >= codebook_size:
            bad.append(Bad(row.where, "has a code beyond the codebook", f"{row.codes.max()} of {codebook_size}"))
        elif shape(row) == common[0][0]:
            kept.append(row)
        else:
            told = "{} numbers and {} codes, most have {} and {}".format(*shape(row)[:2], *common[0][0][:2])
            bad.append(Bad(row.where, "is of another width than most", told))
    return kept, bad


@dataclasses.dataclass(frozen=True)
class _Columns:
    """How rows become latents."""

    codebook_size: int
    codebook_told: bool
    one_hot: bool

    @staticmethod
    def of(rows: Sequence[Row], known: Format, settings: ForeignSettings) -> _Columns:
        """Raises ValueError for codes beyond what is usual for the format, and for codes alone of a codebook too large to be read."""
        codes = [row.codes for row in rows if row.codes is not None]
        largest = max((int(each.max()) for each in codes), default=-1) + 1
        told = settings.codebook_size or known.CODEBOOK_SIZE
        if codes and told and largest > told:
            raise ValueError(
                f"a code {largest - 1}, where {told} codes are usual: give the size that they were made with, --foreign.codebook-size"
            )
        size = (told or largest) if codes else 0
        one_hot = rows[0].vector is None
        if codes and rows[0].quantized is None and (width := size * len(codes[0])) > MAX_ONE_HOT:
            raise ValueError(
                f"{len(codes[0])} codes of {size}: as one-hot vectors they are {width:,} numbers, and at most {MAX_ONE_HOT:,} are "
                "read; give the vectors of the codes as well (quantized), or leave the codes out"
            )
        return _Columns(size, bool(told), one_hot)

    def latents(self, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        """codes, latent, quantized [len(rows), D] each."""
        codes = np.stack([np.zeros(0, np.int32) if row.codes is None else row.codes.astype(np.int32) for row in rows])
        given = rows[0].quantized is not None and rows[0].vector is not None
        spelled = np.zeros((len(rows), 0), np.float32) if given else np.stack([self._vector(each) for each in codes])

        def column(vectors: Sequence[Vector | None], otherwise: NDArray[np.float32]) -> NDArray[np.float32]:
            there = [vector for vector in vectors if vector is not None]
            return np.stack(there) if there else otherwise

        latent = column([row.vector for row in rows], spelled)
        quantized = column([row.quantized for row in rows], spelled if codes.shape[1] else latent)
        return {"codes": codes, "latent": latent, "quantized": quantized}

    def _vector(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """One-hot, position after position."""
        return np.asarray(np.eye(self.codebook_size, dtype=np.float32)[codes].ravel(), np.float32)


def _write(
    corpus: Corpus,
    rows: Sequence[Row],
    placed: dict[str, Placed],
    table: _Columns,
    key: LatentKey,
    out: Path,
    bad: list[Bad],
    progress: Progress,
) -> int:
    """Pairs written; rows of clips that no longer decode become `bad`."""
    reader = PairReader(PairConfig(camera_compensation=False))  # how the camera moved is measured all the same
    done = pairs = 0
    for part in plan_parts([clip for clip in corpus.clips if clip.clip_id in placed], PART_FRAMES):
        of_clip: dict[str, PairBatch] = {}
        for stored in corpus.stored([clip.clip_id for clip in part.rows]):
            found = placed[stored.row.clip_id]
            read = reader.between(stored, found.first, found.second)
            done += 1
            progress("finding the pairs' frames", done, len(placed))
            if isinstance(read, SkippedClip):
                bad += [Bad(rows[k].where, "is of a clip that cannot be read", read.detail[:80]) for k in found.rows]
            else:
                of_clip[stored.row.clip_id] = read.batch().without_images()
        clips: list[tuple[ClipRow, PairBatch]] = [
            (clip, of_clip[clip.clip_id]) for clip in part.rows if clip.clip_id in of_clip
        ]
        if clips:
            mine = [rows[k] for clip, _ in clips for k in placed[clip.clip_id].rows]
            out.mkdir(parents=True, exist_ok=True)
            write_latent_part(out, part, key, clips, table.latents(mine), [])
            pairs += len(mine)
    return pairs


def _nothing(path: Path, count: int, bad: Sequence[Bad], corpus: Corpus) -> str:
    """Why no row is of use."""
    if not count:
        return f"latents '{path}' hold no row: was their writer killed?"
    faults = faults_of(bad)
    why = "; ".join(map(str, faults[:3]))
    if not any(fault.reason in REMEDIES for fault in faults[:3]):
        why += "; see that the times are seconds of the video that the corpus was made of"
    if corpus.clips and any(fault.reason == NO_VIDEO for fault in faults[:3]):
        why += f"; the corpus holds such as '{corpus.clips[0].source}'"
    return f"latents '{path}': none of {count:,} rows is a pair of corpus {corpus}: {why}"
