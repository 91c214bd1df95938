"""A corpus in which an agent of known place acts: a disc (a hand) or a square with an arm (a robot) before a texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from corpora.agent.track_file import TrackFile
from corpora.clips.manifest import ClipRow
from tests.builders.corpora import clip_members, sliding_camera, store_clips
from tests.builders.videos import textured

SIZE, FRAMES, FPS = 48, 24, 10.0
SKIN, METAL = (230, 190, 150), (40, 40, 200)


@dataclass(frozen=True)
class Acted:
    """What is known of one clip."""

    clip_id: str
    frames: np.ndarray
    background: np.ndarray
    """[T, S, S, 3]: the same without the agent."""
    mask: np.ndarray
    point: np.ndarray
    depth: np.ndarray

    @property
    def file(self) -> TrackFile:
        position = np.stack([self.point[:, 0] / SIZE, self.point[:, 1] / SIZE, self.depth], 1).astype(np.float32)
        known = {"depth_m": self.depth.astype(np.float32), "position_m": position, "opening": position[:, 2]}
        return TrackFile(np.arange(len(self.mask)) / FPS, self.mask, self.point.astype(np.float32), known)


def acted(clip_id: str, seed: int, *, robot: bool = False, slides: float = 0.0, absent: Sequence[int] = ()) -> Acted:
    """The agent goes round before a world that slides by `slides` pixels a frame; in the frames `absent` it is not there."""
    world = textured(3 * SIZE, SIZE, 100 + seed)
    angle = 2 * np.pi * (np.arange(FRAMES) / FRAMES + seed / 7)
    point = np.stack([24 + 12 * np.cos(angle), 24 + 10 * np.sin(angle)], 1)
    depth = 0.8 + 0.1 * np.sin(angle + seed)
    frames, backgrounds, masks = [], [], []
    for frame, (x, y) in enumerate(point):
        shift = np.float32([[1, 0, -SIZE / 2 - slides * frame], [0, 1, 0]])
        background = cv2.warpAffine(world, shift, (SIZE, SIZE))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        if frame not in absent:
            if robot:
                cv2.rectangle(mask, (round(x) - 4, round(y) - 4), (round(x) + 4, round(y) + 4), 1, -1)
                cv2.line(mask, (round(x), round(y)), (SIZE, SIZE), 1, 5)
            else:
                cv2.circle(mask, (round(x), round(y)), 6, 1, -1)
        image = background.copy()
        image[mask > 0] = METAL if robot else SKIN
        frames.append(image)
        backgrounds.append(background)
        masks.append(mask > 0)
    point[list(absent)] = np.nan
    return Acted(clip_id, np.stack(frames), np.stack(backgrounds), np.stack(masks), point, depth)


def write_acted(root: Path, clips: Sequence[Acted], *, text: str = "", slides: float = 0.0) -> Path:
    """A corpus of these clips, one a video; the camera's motion is the true one."""
    t_s, camera = np.arange(FRAMES) / FPS, sliding_camera(FRAMES - 5, 5, 2 * 5 * slides / SIZE)
    rows = [
        ClipRow(
            clip.clip_id, f"videos/{clip.clip_id}.mp4", f"videos/{clip.clip_id}.mp4", end_s=FRAMES / FPS, fps=FPS,
            frames=FRAMES, width=SIZE, height=SIZE, size=SIZE, text=text, kept=True,
        )
        for clip in clips
    ]  # fmt: skip
    members = (clip_members(clip.frames, t_s, camera, crf=4) for clip in clips)
    settings = {"size": SIZE, "fit": "stretch", "crf": 4, "gop": 8}
    cells = {"reasons": {"kept": {"count": len(clips), "hours": 0.1}}, "tiers": {}, "embodiments": {}}
    return store_clips(
        root,
        zip(rows, members, strict=True),
        shard_mb=100,
        dropped=[ClipRow("f" * 16, "videos/short.mp4", "videos/short.mp4", reason="too_short")],
        config={"format": 2, "settings": settings, "seed": 0},
        sources=len(clips) + 1,
        **cells,
    )


def write_files(folder: Path, clips: Sequence[Acted]) -> Path:
    """Their true tracks, as npz."""
    for clip in clips:
        clip.file.write(folder / "videos" / f"{clip.clip_id}.npz")
    return folder


def hand_at(wrist: tuple[float, float], palm: float) -> np.ndarray:
    """Landmarks float32 [21, 2], those of MediaPipe, of a hand of a palm `palm` pixels wide whose fingers point up."""
    marks = np.zeros((21, 2))
    for finger, x in enumerate((-0.8, -0.5, -0.15, 0.2, 0.5)):
        for joint in range(4):
            marks[1 + 4 * finger + joint] = x, -(0.35 if finger == 0 else 1.1) - 0.35 * joint
    return (palm * marks + wrist).astype(np.float32)
