"""What is said of tracks and of painting; imports nothing that looks at images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from corpora.store.inputs import READ
from corpora.video.view import AS_CUT, DOT_RADIUS, ROBOT


@dataclass(frozen=True)
class TrackSettings:
    """What decides the tracks of a corpus; of it each source takes what it needs."""

    source: str = "hands"
    """hands: people's hands by MediaPipe (extra `hands`), for which frames of 256 pixels or more are best (giza ingest --size 256);
    files: masks and points that lie in --files, and no other flag."""
    files: Path | None = field(default=None, metadata=READ)
    """Of --source files: folder of npz files, one a clip, episode or video: CLIP_ID.npz, or as the manifest has `source` or
    `group`, with .npz for the video's suffix. `giza simulate --tracks` writes such a folder; corpora/agent/track_file.py lists
    the arrays."""
    hand: Literal["any", "left", "right"] = "any"
    """Whose point counts; any: the hand that is seen the most in the clip. Masks are of all hands that are found."""
    min_confidence: float = 0.5
    """Hands of which MediaPipe is less sure are none."""
    bridge_s: float = 0.35
    """A hand that is lost for no longer than this is taken to have moved evenly meanwhile, at half the confidence."""
    mask: str = "grabcut"
    """How the mask of a hand is made. grabcut: with its forearm, by colour; sam2: with its forearm, by SAM2 (--mask-model), to
    which the hand is pointed out; hand: the hand alone, as its landmarks lie."""
    mask_model: str = ""
    """Of --mask sam2: SAM2 by hub name (facebook/sam2.1-hiera-tiny) or folder, as transformers reads it."""

    def __post_init__(self) -> None:
        if not 0 < self.min_confidence <= 1:
            raise ValueError(f"min_confidence {self.min_confidence}: must be above 0 and at most 1; try 0.5")
        if self.bridge_s < 0:
            raise ValueError(f"bridge_s {self.bridge_s}: must be at least 0 seconds; 0 bridges nothing")


@dataclass(frozen=True)
class PaintSettings:
    """What decides how a frame is painted."""

    agent: str = ROBOT
    """Who is put in the person's place. robot: cut-outs of the robot's own demonstrations (--robot, --robot-tracks); none: nobody;
    dot: a dot at the hand's point. With none and dot the robot's dataset is painted alike: run crosspaint on it, too."""
    robot: Path | None = field(default=None, metadata=READ)
    """Of --agent robot: corpus of its demonstrations (giza ingest of its dataset), from which it is cut out."""
    robot_tracks: Path | None = field(default=None, metadata=READ)
    """Of --agent robot: folder of giza track of that corpus."""
    background: Literal["before", "inpaint"] = "before"
    """What is put behind. before: what was seen there before in the clip, the rest inpainted; inpaint: all inpainted."""
    margin: float = 0.02
    """By how much the mask is grown before it is filled, of the image's side: codecs blur edges, and masks are tight."""
    scale: Literal["as_cut", "hand"] = AS_CUT
    """Of --agent robot: how large cut-outs are drawn. as_cut: as the robot's own camera shows them, which is right where people
    are filmed as the robot is (in simulation; by a head camera), and the only one whose depths giza label can trust; hand: so
    that the tool is as thick as the hand, one ratio a clip, for people who are filmed from further away or nearer. It is not
    chosen for you: look at crosspaint.html."""
    dot_radius: float = DOT_RADIUS
    """Of --agent dot: of the image's (shorter) side, as the margin is."""

    def __post_init__(self) -> None:
        if self.background not in ("before", "inpaint"):
            raise ValueError(f"background '{self.background}': must be 'before' or 'inpaint'")
        if self.scale not in ("as_cut", "hand"):
            raise ValueError(f"scale '{self.scale}': must be 'as_cut' or 'hand'")
        if not 0 <= self.margin <= 0.2:
            raise ValueError(f"margin {self.margin}: must be within 0 and 0.2 of the image's side; try 0.02")
        if not 0 < self.dot_radius <= 0.2:
            raise ValueError(f"dot_radius {self.dot_radius}: must be above 0 and at most 0.2 of the side; try 0.035")


@dataclass(frozen=True)
class CrosspaintSettings:
    """What becomes of clips that cannot be painted."""

    untracked: Literal["keep", "drop"] = "keep"
    """What becomes of clips without a track: kept in the new corpus as they are, with the person in them, or dropped from it."""
    min_seen: float = 0.5
    """Clips in which the agent is seen in a smaller share (0 to 1) of the frames count as untracked."""

    def __post_init__(self) -> None:
        if self.untracked not in ("keep", "drop"):
            raise ValueError(f"untracked '{self.untracked}': must be 'keep' or 'drop'")
        if not 0 <= self.min_seen <= 1:
            raise ValueError(f"min_seen {self.min_seen}: must be within 0 and 1; try 0.5")
