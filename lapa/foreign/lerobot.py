"""A LeRobot dataset whose action is a latent: a row a frame, the latent of the pair that begins there. One that `giza export` wrote
says itself which clip a row is of, when, and how far apart its frames are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpora.episodes.lerobot import DAMAGE, LeRobotDataset
from corpora.episodes.truth import TruthRef
from corpora.store.files import machine_trouble
from corpora.store.told import closest
from corpora.video.probe import describe
from lapa.foreign.exported import CODES, GAP, TIME, clips_of
from lapa.foreign.files import files_of
from lapa.foreign.row import Bad, Row, row_of
from lapa.foreign.settings import ForeignSettings

CODEBOOK_SIZE = 0


def takes(path: Path) -> bool:
    return path.is_dir() and LeRobotDataset.exists(path)


def files(path: Path) -> list[Path]:
    """Without the videos, which show what the corpus shows."""
    return files_of(path, ".parquet", ".json", ".jsonl")


def rows(path: Path, settings: ForeignSettings) -> Iterator[Row | Bad]:
    """A row whose action is NaN, as those without a second frame may be, is bad as others that are not finite are."""
    clips = clips_of(path)
    if not settings.gap_s and not clips:
        raise ValueError(
            f"latents '{path}': a LeRobot dataset does not say how far apart the frames of a latent are: give --foreign.gap-s"
        )
    dataset = LeRobotDataset.open(path)
    if settings.column not in dataset.features:
        raise ValueError(
            f"foreign.column '{settings.column}' of '{path}': {closest(settings.column, dataset.features)}"
        )
    for place in dataset.all_episodes([]):
        where = f"episode {place.index}"
        named = (settings.dataset, f"episode_{place.index:06d}", settings.camera)
        video = "/".join(part for part in named if part)
        try:
            found = TruthRef(str(place.data), place.index, dataset.fps, place.length).read()
            latents = found[settings.column]
        except DAMAGE as error:
            if machine_trouble(error):
                raise
            yield Bad(where, "is of an episode that cannot be read", describe(error)[:80])
            continue
        for number, (t_s, latent) in enumerate(zip(found.t_s.tolist(), latents, strict=True)):
            known = {"video": video, "t_s": t_s, "vector": latent}
            if place.index in clips:
                known = {"clip_id": clips[place.index], "vector": latent}
                known |= {"t_s": float(found[TIME][number, 0]), "gap_s": float(found[GAP][number, 0])}
                known |= {"codes": found[CODES][number]} if CODES in found.columns else {}
            yield row_of(f"{where} row {number}", known, settings.gap_s)
