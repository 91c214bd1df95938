"""Episodes that an open loop shows: what was done and what was predicted, kept small, and a film of what was seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.episodes.episode import Episodes
from corpora.store.files import written_whole
from corpora.video.encode import EpisodeVideo
from corpora.video.encoding import VideoEncoding
from corpora.video.probe import Unusable, probe
from jobs.evaluation.open_loop import Chunks, OpenLoopResult
from jobs.evaluation.verdict import two_digits
from jobs.evaluation.videos import BAD, FILMS, GOOD, SheetRow, video_frames, write_sheet

FILM_HZ = 10
"""Frames a second of the films of recorded episodes."""
FILM_SIDE = 256
"""Pixels: a film has as many as a square of this side."""
FILM_BYTES = 256 << 20
"""Memory for the decoded images of one episode; those of a longer one are smaller."""
SHEET = "contact_sheet_episodes.png"
ENCODING = VideoEncoding(crf=30, keyframe_frames=FILM_HZ)
MOST_CHUNKS, MOST_MOMENTS = 60, 600
"""That are kept of one episode, evenly spaced: more than a page can show apart."""


@dataclass(frozen=True)
class DrawnEpisode:
    """One episode; N moments, C chunks of H steps without overlap, Da dimensions."""

    episode: int
    instruction: str
    step_s: float
    """Seconds between steps of a chunk."""
    t_s: NDArray[np.float64]
    """[N]."""
    recorded: NDArray[np.float32]
    """[N, Da]: what was done."""
    starts_s: NDArray[np.float64]
    """[C]: when each chunk was predicted."""
    mask: NDArray[np.bool_]
    """[C, H]: False past the episode's end."""
    chunks: Mapping[str, NDArray[np.float32]]
    """Method -> [C, H, Da], the policy first."""

    @classmethod
    def of(
        cls, truth: Chunks, methods: Mapping[str, NDArray[Any]], episode: int, instruction: str, step_s: float
    ) -> Self:
        """`methods`: name -> [all moments, H, Da]."""
        rows = np.flatnonzero((truth.episode == episode) & truth.mask[:, 0])
        rows = rows[np.argsort(truth.t_s[rows], kind="stable")]
        horizon_s, apart, free_s = truth.action.shape[1] * step_s, [], -math.inf
        for row in rows:
            if truth.t_s[row] >= free_s - 1e-6:
                apart.append(row)
                free_s = truth.t_s[row] + horizon_s
        starts, kept = _even(np.asarray(apart, np.int64), MOST_CHUNKS), _even(rows, MOST_MOMENTS)
        return cls(
            episode,
            instruction,
            step_s,
            truth.t_s[kept],
            truth.action[kept, 0],
            truth.t_s[starts],
            truth.mask[starts],
            {name: np.asarray(values[starts], np.float32) for name, values in methods.items()},
        )

    def save(self, folder: Path) -> None:
        """To `folder`, as `load` reads it."""
        facts = {"instruction": np.asarray(self.instruction), "step_s": np.asarray(self.step_s)}
        arrays = {name: getattr(self, name) for name in ("t_s", "recorded", "starts_s", "mask")}
        chunks = {f"chunks.{name}": values for name, values in self.chunks.items()}
        with written_whole(kept_path(folder, self.episode)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **facts, **arrays, **chunks)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path, episode: int) -> Self | None:
        """None where none is kept. Raises ValueError for a damaged file."""
        path = kept_path(folder, episode)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(
                    episode,
                    str(file["instruction"]),
                    float(file["step_s"]),
                    file["t_s"],
                    file["recorded"],
                    file["starts_s"],
                    file["mask"],
                    {name.removeprefix("chunks."): file[name] for name in file.files if name.startswith("chunks.")},
                )
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: damaged ({error}); remove it and evaluation.json, and evaluate again") from error

    @property
    def seconds(self) -> float:
        return float(self.t_s[-1])


def kept_path(folder: Path, episode: int) -> Path:
    """Where an episode's trajectories lie."""
    return folder / f"open_loop_episode_{episode:06d}.npz"


def film_path(folder: Path, episode: int) -> Path:
    """Where an episode's film lies, of the folder of films."""
    return folder / f"episode_{episode:06d}.mp4"


def write_film(folder: Path, episodes: Episodes, episode: int) -> None:
    """An mp4 at FILM_HZ of what the policy's first camera saw, by the episode's clock; none where no image can be read."""
    one = episodes.take([episode]).seen_by(episodes.cameras[:1])
    rows = len(one.t_s)
    side = max(16, min(FILM_SIDE, math.isqrt(FILM_BYTES // (3 * rows))))
    images, valid = np.zeros((rows, 1, side, side, 3), np.uint8), np.zeros((rows, 1), np.bool_)
    one.reader.fill(one, images, valid, None)
    path = film_path(folder, episode)
    if not valid.any():
        path.unlink(missing_ok=True)  # of another dataset
        return
    wanted = np.arange(0, one.t_s[-1] + 0.5 / FILM_HZ, 1 / FILM_HZ)
    at = np.clip(np.searchsorted(one.t_s, wanted - 0.5 / one.fps), 0, rows - 1)
    stretch = math.sqrt(_aspect(one))
    width, height = (2 * max(8, round(part / 2)) for part in (side * stretch, side / stretch))
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial, EpisodeVideo(partial, FILM_HZ, ENCODING) as video:
        for row in at:
            video.add(np.asarray(cv2.resize(images[row, 0], (width, height), interpolation=cv2.INTER_AREA), np.uint8))


def _aspect(one: Episodes) -> float:
    """Width over height of the images of an episode with one camera; 1 where it is not known."""
    spans = list(one.episodes[0].videos.values())
    if not spans:
        return 1.0
    try:
        facts = probe(spans[0].path)
    except Unusable:
        return 1.0
    width, height = facts.showing.size(facts.width, facts.height)
    return float(np.clip(width / height, 0.25, 4))


def _even(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of them, evenly spaced, the first and the last included."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def write_episodes_sheet(
    folder: Path, numbers: Sequence[int], instructions: Mapping[int, str], result: OpenLoopResult
) -> None:
    """SHEET: a row for each of the episodes `numbers` that has a film, green where the policy is nearer than the best baseline."""
    rows = []
    for number in numbers:
        path = film_path(folder / FILMS, number)
        if path.is_file():
            ratio = beside_best(result.numbers, result.per_episode, number)
            told = "" if ratio is None else f"x{two_digits(ratio)} of the best baseline"
            colour = GOOD if ratio is not None and ratio < 1 else BAD
            rows.append(
                SheetRow([f"episode {number}", f'"{instructions[number]}"', told], colour, video_frames(path), FILM_HZ)
            )
    write_sheet(rows, folder / SHEET)


def beside_best(
    numbers: Sequence[int], per_episode: Mapping[str, Sequence[float] | NDArray[np.float64]], episode: int
) -> float | None:
    """The policy's squared error on an episode over that of its best baseline; None where that is not known."""
    if episode not in numbers:
        return None
    place = list(numbers).index(episode)
    mine, errors = (
        per_episode["policy"][place],
        [values[place] for name, values in per_episode.items() if name != "policy"],
    )
    known = mine is not None and errors and None not in errors and min(errors) > 0
    return float(mine / min(errors)) if known else None


def drawn_episodes(folder: Path, numbers: Sequence[int]) -> list[DrawnEpisode]:
    """Those of `numbers` that are kept in `folder`."""
    found = (DrawnEpisode.load(folder, number) for number in numbers)
    return [each for each in found if each is not None]
