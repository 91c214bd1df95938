"""Videos of rollouts, each with its instruction and its outcome, and one contact sheet of them all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.store.files import written_whole
from corpora.video.encode import EpisodeVideo
from corpora.video.encoding import VideoEncoding
from jobs.evaluation.rollout_log import VIDEO_HZ, Rollout

FILMS = "films"
"""The folder of films beside evaluation.json."""
_WIDTH = 256
"""Pixels of a video's image, and its caption above."""
_CAPTION = 36
COLUMNS, CELL = 8, 112
"""Of the contact sheet, and pixels of one of its images."""
_OUTCOME = {True: "did as told", False: "did not"}
GOOD, BAD = (46, 140, 70), (190, 50, 40)


def video_path(folder: Path, rollout: Rollout) -> Path:
    """Where the video of a rollout lies: its task, initial state and instruction."""
    words = re.sub(r"[^a-z0-9]+", "-", rollout.instruction.lower()).strip("-") or "nothing-said"
    return folder / f"{rollout.task}_{rollout.start:03d}_{words[:60]}.mp4"


def write_video(folder: Path, rollout: Rollout) -> Path:
    """An mp4 at VIDEO_HZ of a rollout that brought its frames; the last frame stays for half a second."""
    assert rollout.frames is not None
    folder.mkdir(parents=True, exist_ok=True)
    path = video_path(folder, rollout)
    caption, encoding = _caption(rollout), VideoEncoding(crf=20, keyframe_frames=VIDEO_HZ)
    with written_whole(path) as partial, EpisodeVideo(partial, VIDEO_HZ, encoding) as video:
        for frame in [*rollout.frames, *[rollout.frames[-1]] * (VIDEO_HZ // 2)]:
            image = cv2.resize(frame, (_WIDTH, _WIDTH), interpolation=cv2.INTER_CUBIC)
            video.add(np.concatenate([caption, np.asarray(image, np.uint8)]))
    return path


def _caption(rollout: Rollout) -> NDArray[np.uint8]:
    """uint8 [_CAPTION, _WIDTH, 3]: task and initial state, outcome, and the instruction below."""
    canvas = np.full((_CAPTION, _WIDTH, 3), 24, np.uint8)
    outcome = f"{_OUTCOME[rollout.as_instructed]} {rollout.seconds:.2f} s"
    if rollout.turned:
        outcome += f", turned {rollout.turned}"
    _write(
        canvas,
        f"{rollout.task} #{rollout.start}: {outcome}",
        14,
        (130, 220, 150) if rollout.as_instructed else (250, 150, 140),
    )
    _write(canvas, f'"{rollout.instruction}"', 29, (225, 225, 225))
    return canvas


def _write(canvas: NDArray[np.uint8], text: str, y: int, colour: tuple[int, int, int], x: int = 5) -> None:
    """In the largest size at which it fits."""
    room = canvas.shape[1] - x - 4
    scale = 0.42
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, room / max(width, 1))
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def contact_sheet(folder: Path, rollouts: Sequence[Rollout], path: Path) -> None:
    """PNG with a row for each rollout whose video is in `folder`: COLUMNS moments from the first to the last, marked green where
    it did as told, red where not; without any, nothing is written."""
    rows = []
    for rollout in rollouts:
        path_of_video = video_path(folder, rollout)
        if not path_of_video.is_file():
            continue
        images = [image[_CAPTION:] for image in video_frames(path_of_video)[: -(VIDEO_HZ // 2)]]
        lines = [f"{rollout.task} #{rollout.start}", f'"{rollout.instruction}"', _OUTCOME[rollout.as_instructed]]
        if rollout.turned:
            lines.append(f"turned {rollout.turned}")
        rows.append(SheetRow(lines, GOOD if rollout.as_instructed else BAD, images, VIDEO_HZ))
    write_sheet(rows, path)


@dataclass(frozen=True)
class SheetRow:
    """A film on a contact sheet."""

    lines: Sequence[str]
    """At most four."""
    colour: tuple[int, int, int]
    """Of its mark and its third line."""
    images: Sequence[NDArray[np.uint8]]
    """[F] of [H, W, 3]."""
    hz: int


def write_sheet(rows: Sequence[SheetRow], path: Path) -> None:
    """PNG with COLUMNS moments of each row, from the first to the last; without any row, none is left there."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    drawn = []
    for row in rows:
        cells = []
        for number in np.linspace(0, len(row.images) - 1, COLUMNS).round().astype(int):
            height, width = row.images[number].shape[:2]
            shown = (round(CELL * width / height), CELL)
            cell = cv2.resize(row.images[number], shown, interpolation=cv2.INTER_AREA)
            at, white = f"{number / row.hz:.1f} s", (255, 255, 255)
            cv2.putText(cell, at, (3, CELL - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.33, white, 1, cv2.LINE_AA)
            cells.append(np.asarray(cell, np.uint8))
        label = np.full((CELL, 190, 3), 250, np.uint8)
        label[:, :5] = row.colour
        inks = ((30, 30, 30), (90, 90, 90), row.colour, (30, 30, 30))
        for place, (text, ink) in enumerate(zip(row.lines, inks, strict=False)):
            _write(label, text, 24 + 22 * place, ink, x=12)
        drawn.append(np.pad(np.concatenate([label, *cells], 1), ((0, 4), (0, 0), (0, 0)), constant_values=255))
    wide = max(row.shape[1] for row in drawn)
    sheet = np.concatenate(
        [np.pad(row, ((0, 0), (0, wide - row.shape[1]), (0, 0)), constant_values=255) for row in drawn]
    )
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def video_frames(path: Path) -> list[NDArray[np.uint8]]:
    """[H, W, 3] each."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
